"""One training step of MMR and of what it is compared with."""

from collections.abc import Callable

import keras
import tensorflow as tf

from robust_tf import schedules
from robust_tf.architectures import max_margin as architectures
from robust_tf.attacks.pgd import PGD
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.max_margin import Margin
from robust_tf.objectives.max_margin import MaximumMargin
from robust_tf.regions import Threat
from robust_tf.training.certified_model import CertifiedModel

_EPSILON, _GAMMA, _CLASSES = 0.1, 0.1, 10


def training_step(
    name: str, shape: tuple[int, ...], method: str, batch: int, micro_batches: int
) -> Callable[[], object]:
    """Returns a function that trains one step on a fixed batch of noise.

    Args:
        name: of `architectures.max_margin`.
        shape: of an image.
        method: "plain", "at", "mmr", "mmr+at", "mmr-universal" or "kw".
        batch: examples.
        micro_batches: parts of it.
    """
    keras.utils.set_random_seed(0)
    classifier = getattr(architectures, name)(shape, _CLASSES)
    model = CertifiedModel(
        classifier,
        _objective(method),
        Threat(_EPSILON),
        schedules.Constant(1.0),
        micro_batches=micro_batches,
    )
    model.compile(keras.optimizers.Adam(1e-3))
    model.optimizer.build(classifier.trainable_variables)
    images = tf.random.uniform([batch, *shape], seed=1)
    labels = tf.random.uniform([batch], 0, _CLASSES, tf.int32, seed=2)
    step = tf.function(lambda: model.train_step((images, labels)), autograph=False)
    return lambda: step()["loss"].numpy()


def _objective(method) -> terms.WeightedSum:
    clean, attacked = terms.StandardCrossEntropy(), terms.AdversarialCrossEntropy()
    attack = PGD(
        steps=40,
        relative_step_size=0.05,
        objective="cross_entropy",
        step_decay=(),
        keep="last",
    )
    half = Adversary(attack, share=0.5)
    one = (Margin(_GAMMA, _GAMMA),)
    both = (Margin(1.0, 1.0, 1.0, 1), Margin(_GAMMA, _GAMMA, 1.0, "inf"))
    parts, adversary = {
        "plain": ((clean,), None),
        "at": ((attacked,), half),
        "mmr": ((clean, MaximumMargin(one, 100)), None),
        "mmr+at": ((attacked, MaximumMargin(one, 100, points="attacked")), half),
        "mmr-universal": ((clean, MaximumMargin(both, 100, 0.2, 0.05)), None),
        "kw": ((terms.ConvexAdversarialCrossEntropy(),), None),
    }[method]
    return terms.WeightedSum(parts, (1.0,) * len(parts), method, adversary)
