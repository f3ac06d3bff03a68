"""Images with labels: sets in memory or in files, batches of them, augmentation."""

from robust_tf.data.augmentation import RandomCropAndColor
from robust_tf.data.augmentation import RandomFlipAndCrop
from robust_tf.data.crops import CentreCrop
from robust_tf.data.crops import RandomResizedCrop
from robust_tf.data.dataset import ImageDataset
from robust_tf.data.dataset import LabelledImages
from robust_tf.data.loading import load
from robust_tf.data.pipeline import evaluation_batches
from robust_tf.data.pipeline import evaluation_positions
from robust_tf.data.pipeline import steps_per_epoch
from robust_tf.data.pipeline import training_batches
from robust_tf.data.statistics import normalization
from robust_tf.data.stored import StoredImages
