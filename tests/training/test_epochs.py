"""The number of the epoch that losses see."""

import dataclasses

import pytest
import tensorflow as tf

from robust_tf.attacks.pgd import PGD
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.training.gradients import LessCertain
from tests.training import small


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The number itself as a loss, and no gradient."""

    name: str = "epoch_loss"

    def __call__(self, forward):
        return tf.cast(forward.epoch, tf.float32) + 0.0 * forward.logits[:, 0]


OBJECTIVE = terms.WeightedSum((Epoch(),), (1.0,))


def model_of(objective=OBJECTIVE, **more):
    return small.certified_model(small.cnn(), objective, **more)


def test_training_and_validation():
    """48 images in batches of 16 are three steps; validation is that of its epoch."""
    model = model_of(steps_per_epoch=3)
    assert model.evaluate(small.batches(), verbose=0, return_dict=True)["loss"] == 1.0
    history = small.fit(
        model, small.batches(), epochs=3, validation_data=small.batches()
    )
    assert history["epoch_loss"] == [1.0, 2.0, 3.0]
    assert history["val_epoch_loss"] == [1.0, 2.0, 3.0]
    measured = model.evaluate(small.batches(), verbose=0, return_dict=True)
    assert measured["loss"] == 3.0


def test_each_step_counts_one_epoch_by_default():
    history = small.fit(model_of(), small.batches(), epochs=2)
    assert history["epoch_loss"] == pytest.approx([2.0, 5.0])


def test_within_an_epoch():
    history = small.fit(model_of(steps_per_epoch=2), small.batches(), epochs=2)
    assert history["epoch_loss"] == pytest.approx([(1 + 1 + 2) / 3, (2 + 3 + 3) / 3])


def test_micro_batches_are_one_step():
    model = model_of(steps_per_epoch=3, micro_batches=2)
    assert small.fit(model, small.batches(), epochs=2)["epoch_loss"] == [1.0, 2.0]


def test_two_updates_are_one_step():
    adversary = Adversary(PGD(steps=1, random_start=False))
    objective = dataclasses.replace(OBJECTIVE, adversary=adversary)
    model = model_of(objective, steps_per_epoch=3, gradient_rule=LessCertain())
    history = small.fit(
        model, small.batches(), epochs=2, validation_data=small.batches()
    )
    assert history["epoch_loss"] == [1.0, 2.0]
    assert history["val_epoch_loss"] == [1.0, 2.0]


def test_without_an_optimizer():
    model = model_of(steps_per_epoch=3)
    model.compile(optimizer=None)
    measured = model.evaluate(small.batches(), verbose=0, return_dict=True)
    assert measured["loss"] == 1.0
