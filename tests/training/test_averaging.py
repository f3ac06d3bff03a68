"""The average is the plain mean of the weights at the ends of epochs."""

import keras
import numpy as np
import pytest

from robust_tf.objectives import terms
from robust_tf.training.averaging import WeightAverage
from robust_tf.training.distribution import strategy_for
from tests.training import small

FIRST, EPOCHS = 2, 5


class _Recorder(keras.callbacks.Callback):
    """Weights at the beginnings of epochs, in validation, and at the end of epochs."""

    def __init__(self):
        super().__init__()
        self.begun, self.validated, self.ended = [], [], []

    def _weights(self):
        return self.model.classifier.get_weights()

    def on_epoch_begin(self, epoch, logs=None):
        del epoch, logs
        self.begun.append(self._weights())

    def on_test_begin(self, logs=None):
        del logs
        self.validated.append(self._weights())

    def on_epoch_end(self, epoch, logs=None):
        del epoch, logs
        self.ended.append(self._weights())


def _run(average_from=None, devices=(), epochs=EPOCHS):
    data, recorder = small.batches(), _Recorder()
    with strategy_for(devices).scope():
        model = small.certified_model(
            small.cnn(normalized=True),
            terms.robust(None),
            optimizer=keras.optimizers.Adam(0.05),
        )
        callbacks = [recorder]
        if average_from is not None:
            callbacks = [WeightAverage(model.classifier, average_from), recorder]
    model.fit(
        data,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        validation_data=data,
        callbacks=callbacks,
    )
    return model.classifier.get_weights(), recorder


@pytest.fixture(scope="module")
def plain():
    return _run()[1]


def _assert_equal(one, other, atol=0.0):
    for value, wanted in zip(one, other, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("devices", [(), ("CPU:0", "CPU:1")])
def test_the_mean_of_the_ends_of_epochs(plain, devices):
    final, averaged = _run(FIRST, devices)
    tolerance = 1e-5 if devices else 1e-6
    for epoch in range(EPOCHS):
        # Training itself goes on as without an average.
        _assert_equal(
            averaged.begun[epoch], plain.begun[epoch], 1e-5 if devices else 0.0
        )
        ends = plain.ended[FIRST : epoch + 1] or [plain.ended[epoch]]
        mean = [np.mean(values, 0, "float64") for values in zip(*ends, strict=True)]
        _assert_equal(averaged.validated[epoch], mean, tolerance)
        _assert_equal(averaged.ended[epoch], averaged.validated[epoch])
    _assert_equal(final, averaged.ended[-1])
    assert np.abs(final[0] - plain.ended[-1][0]).max() > 0.01


def test_one_epoch_is_its_own_average(plain):
    final, _ = _run(FIRST, epochs=FIRST + 1)
    _assert_equal(final, plain.ended[FIRST])
