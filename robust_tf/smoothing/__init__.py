"""Randomized smoothing: certified radii by sampling, for any classifier."""

from robust_tf.smoothing.base import BaseClassifier
from robust_tf.smoothing.certificates import Certificates
from robust_tf.smoothing.certificates import Predictions
from robust_tf.smoothing.certificates import SoftCertificates
from robust_tf.smoothing.classifier import SmoothedClassifier
from robust_tf.smoothing.noises import Gaussian
from robust_tf.smoothing.noises import QuantisedGaussian
from robust_tf.smoothing.noises import Uniform
