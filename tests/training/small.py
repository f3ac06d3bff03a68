"""Small classifiers, data and objectives that train in seconds."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from robust_tf import layers
from robust_tf import schedules
from robust_tf.attacks.pgd import PGD
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.regions import Threat
from robust_tf.training.certified_model import CertifiedModel

CLASSES = 4
SHAPE = (6, 6, 1)


def images_and_labels(count=48, seed=0):
    """Images with a bright quarter that tells the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count).astype("int32")
    images = random.uniform(0.0, 0.6, (count, *SHAPE)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 0.4
    return images, labels


def batches(size=16, count=48):
    return tf.data.Dataset.from_tensor_slices(images_and_labels(count)).batch(
        size, drop_remainder=True
    )


def cnn(seed=0, normalized=False, dropout=0.0, dtype=None):
    """One convolution and two dense layers; no bias before a BatchNormalization.

    With `seed=None` weights are drawn from the random state as it is.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    inputs = keras.Input(SHAPE, dtype=dtype)
    tensor = layers.Conv2D(
        3, 3, 2, "same", use_bias=not normalized, dtype=dtype, name="conv"
    )(inputs)
    if normalized:
        tensor = layers.BatchNormalization(momentum=0.9, dtype=dtype, name="norm")(
            tensor
        )
    tensor = layers.Flatten(dtype=dtype)(layers.ReLU(dtype=dtype)(tensor))
    tensor = layers.ReLU(dtype=dtype)(layers.Dense(6, dtype=dtype)(tensor))
    if dropout:
        tensor = layers.Dropout(dropout)(tensor)
    return keras.Model(inputs, layers.Dense(CLASSES, dtype=dtype)(tensor))


def adversarial(attack=None):
    """Adversarial training, by default with an attack that draws nothing."""
    attack = attack or PGD(steps=3, random_start=False)
    return terms.WeightedSum(
        (terms.AdversarialCrossEntropy(),), (1.0,), adversary=Adversary(attack)
    )


def with_penalty(objective, weight=1e-3):
    return dataclasses.replace(
        objective,
        terms=(*objective.terms, terms.L1Penalty()),
        weights=(*objective.weights, weight),
    )


def certified_model(
    classifier, objective, *, threat=None, ramp=None, optimizer=None, jit=False, **more
):
    """Compiled; without `ramp` at the full radius from the first step."""
    model = CertifiedModel(
        classifier,
        objective,
        threat or Threat(0.05),
        ramp or schedules.Constant(1.0),
        **more,
    )
    model.compile(optimizer or keras.optimizers.SGD(0.1), jit_compile=jit)
    return model


def fit(model, data, epochs=1, **more):
    """The history of a silent `fit`."""
    return model.fit(data, epochs=epochs, shuffle=False, verbose=0, **more).history


def weights(model):
    return [np.asarray(variable) for variable in model.variables]
