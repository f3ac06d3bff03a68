"""Keras layers that carry interval and backward linear bound rules."""

from robust_tf.layers.activations import ELU
from robust_tf.layers.activations import LeakyReLU
from robust_tf.layers.activations import ReLU
from robust_tf.layers.activations import Sigmoid
from robust_tf.layers.activations import Softplus
from robust_tf.layers.activations import Tanh
from robust_tf.layers.affine import Dense
from robust_tf.layers.base import BoundLayer
from robust_tf.layers.convert import convert
from robust_tf.layers.convert import supported_layers
from robust_tf.layers.convolution import Conv1D
from robust_tf.layers.convolution import Conv2D
from robust_tf.layers.convolution import DepthwiseConv2D
from robust_tf.layers.elementwise_affine import ElementwiseAffine
from robust_tf.layers.normalization import BatchNormalization
from robust_tf.layers.normalization import Normalization
from robust_tf.layers.normalization import Rescaling
from robust_tf.layers.padded_pooling import PaddedMaxPooling2D
from robust_tf.layers.pooling import AveragePooling2D
from robust_tf.layers.pooling import GlobalAveragePooling2D
from robust_tf.layers.pooling import GlobalMaxPooling2D
from robust_tf.layers.pooling import MaxPooling2D
from robust_tf.layers.structural import Add
from robust_tf.layers.structural import Average
from robust_tf.layers.structural import Concatenate
from robust_tf.layers.structural import Dropout
from robust_tf.layers.structural import Flatten
from robust_tf.layers.structural import Permute
from robust_tf.layers.structural import Reshape
from robust_tf.layers.structural import Subtract
from robust_tf.layers.structural import ZeroPadding2D

__all__ = [
    "Add",
    "Average",
    "AveragePooling2D",
    "BatchNormalization",
    "BoundLayer",
    "Concatenate",
    "Conv1D",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "ELU",
    "ElementwiseAffine",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "LeakyReLU",
    "MaxPooling2D",
    "Normalization",
    "PaddedMaxPooling2D",
    "Permute",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Sigmoid",
    "Softplus",
    "Subtract",
    "Tanh",
    "ZeroPadding2D",
    "convert",
    "supported_layers",
]
