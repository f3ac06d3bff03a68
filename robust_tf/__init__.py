"""Certified adversarial robustness for TensorFlow 2 and Keras 3."""

from robust_tf import smoothing
from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.layers.convert import convert
from robust_tf.layers.convert import supported_layers
from robust_tf.propagation.compute import compute_bounds
from robust_tf.propagation.compute import estimate_bounds
from robust_tf.regions import Box
from robust_tf.regions import LpBall
from robust_tf.specifications import UnsafeSet
from robust_tf.specifications import margin_specification
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import VerificationResult
from robust_tf.verification.verify import Verifier
from robust_tf.verification.verify import verify

__version__ = "0.1.0"
