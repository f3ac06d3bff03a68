import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from scipy import stats

from robust_tf.data import pipeline
from robust_tf.data.augmentation import RandomFlipAndCrop
from robust_tf.data.dataset import ImageDataset
from robust_tf.errors import InputError

AUGMENTATION = RandomFlipAndCrop(padding=2)


def toy(count=10, dtype=np.uint8):
    """Images that name their position in every pixel; labels that do, too."""
    images = np.broadcast_to(np.arange(count)[:, None, None, None], (count, 6, 5, 2))
    images = images + np.arange(60).reshape(6, 5, 2)
    images = images.astype(np.uint8) if dtype == np.uint8 else images / 255.0
    return ImageDataset("toy", images, np.arange(count), count, "train")


def collect(batches):
    return [tuple(part.numpy() for part in batch) for batch in batches]


def collect_with_targets(batches):
    """Images, labels and targets."""
    return [
        (images.numpy(), labels["label"].numpy(), labels["target"].numpy())
        for images, labels in batches
    ]


def assert_same(first, second):
    for some, others in zip(first, second, strict=True):
        for part, other in zip(some, others, strict=True):
            np.testing.assert_array_equal(part, other)


class TrainingBatchesTest(parameterized.TestCase):
    @parameterized.parameters((True, 3, 3), (False, 3, 4), (False, 5, 2), (True, 10, 1))
    def test_every_epoch_is_a_permutation(self, drop_remainder, batch_size, steps):
        dataset = toy()
        count = pipeline.steps_per_epoch(dataset, batch_size, drop_remainder)
        self.assertEqual(count, steps)
        batches = pipeline.training_batches(
            dataset, batch_size, 7, epochs=3, drop_remainder=drop_remainder
        )
        self.assertEqual(batches.cardinality(), 3 * steps)
        seen = collect(batches)
        self.assertLen(seen, 3 * steps)
        orders = []
        for epoch in range(3):
            part = seen[epoch * steps : (epoch + 1) * steps]
            labels = np.concatenate([labels for _, labels in part])
            expected = steps * batch_size if drop_remainder else len(dataset)
            self.assertLen(labels, expected)
            self.assertLen(set(labels), expected)
            images = np.concatenate([images for images, _ in part])
            np.testing.assert_array_equal(images, dataset.floats(labels))
            orders.append(tuple(labels))
        self.assertLen(set(orders), 3)

    def test_targets_come_with_their_labels(self):
        targets = np.random.default_rng(0).dirichlet(np.ones(10), 10)
        dataset = dataclasses.replace(toy(), targets=targets)
        seen = collect_with_targets(
            pipeline.training_batches(
                dataset, 4, 7, epochs=2, augmentation=AUGMENTATION
            )
        )
        plain = collect(
            pipeline.training_batches(toy(), 4, 7, epochs=2, augmentation=AUGMENTATION)
        )
        self.assertLen(seen, 4)
        assert_same([batch[:2] for batch in seen], plain)
        for _, labels, found in seen:
            np.testing.assert_array_equal(found, dataset.targets[labels])
        (_, labels, _), *_ = collect(pipeline.evaluation_batches(dataset, 4))
        np.testing.assert_array_equal(labels, np.arange(4))

    @parameterized.product(dtype=[np.uint8, np.float32], drop_remainder=[True, False])
    def test_resumed_run_sees_the_same_batches(self, dtype, drop_remainder):
        def run(first_epoch):
            return collect(
                pipeline.training_batches(
                    toy(dtype=dtype),
                    3,
                    seed=5,
                    epochs=4,
                    first_epoch=first_epoch,
                    augmentation=AUGMENTATION,
                    drop_remainder=drop_remainder,
                )
            )

        whole = run(0)
        steps = len(whole) // 4
        assert_same(run(0), whole)
        assert_same(run(2), whole[2 * steps :])
        self.assertEqual(run(4), [])

    def test_weighted_epochs_are_drawn_with_replacement(self):
        weights = np.arange(10.0) * (np.arange(10) != 4)

        def run(first_epoch=0, weights=weights, seed=5):
            batches = pipeline.training_batches(
                toy(),
                5,
                seed,
                epochs=300,
                first_epoch=first_epoch,
                augmentation=AUGMENTATION,
                weights=weights,
            )
            return collect(batches)

        whole = run()
        self.assertLen(whole, 600)
        for first_epoch in (0, 1, 299):
            assert_same(run(first_epoch), whole[2 * first_epoch :])
        labels = np.concatenate([labels for _, labels in whole])
        counts = np.bincount(labels, minlength=10)
        self.assertEqual(counts[[0, 4]].tolist(), [0, 0])
        kept = weights > 0.0
        expected = 3000 * weights / weights.sum()
        test = stats.chisquare(counts[kept], expected[kept])
        self.assertGreater(test.pvalue, 1e-3)
        # Epochs differ, and so do seeds; only the weights' proportions count.
        orders = {tuple(part) for part in labels.reshape(300, 10)}
        self.assertLen(orders, 300)
        self.assertFalse(np.array_equal(run(299, seed=6)[0][1], run(299)[0][1]))
        assert_same(run(299, 8.0 * weights), run(299))

    def test_draws_with_equal_weights_repeat_some_and_miss_some(self):
        batches = pipeline.training_batches(
            toy(100), 100, 0, epochs=1, weights=np.ones(100)
        )
        ((images, labels),) = collect(batches)
        # On average 1 - (1 - 1/n)^n of the examples, 63.4.
        self.assertBetween(len(set(labels)), 50, 77)
        np.testing.assert_array_equal(images, toy(100).floats(labels))

    @parameterized.parameters(
        (np.ones(9), "each of the 10 examples. Received: shape"),
        (np.ones((10, 1)), "each of the 10 examples"),
        (np.zeros(10), "some above 0"),
        (-np.ones(10), "at least 0"),
        (np.full(10, np.nan), "finite"),
        (np.full(10, np.inf), "finite"),
    )
    def test_refuses_weights(self, weights, message):
        with pytest.raises(InputError, match=message):
            pipeline.training_batches(toy(), 5, 0, epochs=1, weights=weights)

    def test_seed_decides_order_and_augmentation(self):
        def run(seed, augmentation):
            batches = pipeline.training_batches(
                toy(100), 100, seed, epochs=1, augmentation=augmentation
            )
            return collect(batches)[0]

        images, labels = run(1, AUGMENTATION)
        other_images, other_labels = run(2, AUGMENTATION)
        self.assertFalse(np.array_equal(labels, other_labels))
        # The order does not depend on whether there is augmentation.
        plain, plain_labels = run(1, None)
        np.testing.assert_array_equal(labels, plain_labels)
        self.assertFalse(np.array_equal(images, plain))
        by_label, other = images[labels.argsort()], other_images[other_labels.argsort()]
        self.assertFalse(np.array_equal(by_label, other))

    def test_augmentation_differs_between_batches_and_epochs(self):
        constant = ImageDataset(
            "one", np.repeat(toy(1).images, 20, axis=0), np.zeros(20, int), 1, "train"
        )
        batches = pipeline.training_batches(
            constant, 10, 0, epochs=2, augmentation=AUGMENTATION
        )
        self.assertLen({images.tobytes() for images, _ in collect(batches)}, 4)

    def test_static_shapes(self):
        batches = pipeline.training_batches(
            toy(), 3, 0, epochs=1, augmentation=AUGMENTATION
        )
        images, labels = batches.element_spec
        self.assertEqual(images, tf.TensorSpec([3, 6, 5, 2], tf.float32))
        self.assertEqual(labels, tf.TensorSpec([3], tf.int32))

    def test_augmentation_sees_floats_in_the_unit_interval(self):
        def halve(images, seed):
            self.assertEqual(images.dtype, tf.float32)
            self.assertEqual(seed.shape, [2])
            return images / 2.0

        batches = pipeline.training_batches(toy(), 10, 0, epochs=1, augmentation=halve)
        ((images, labels),) = collect(batches)
        np.testing.assert_array_equal(images, toy().floats(labels) / np.float32(2))

    @parameterized.named_parameters(
        ("type", lambda images, _: tf.cast(images, tf.float64), "float64"),
        ("shape", lambda images, _: images[:, :3], "3, 3, 5, 2"),
    )
    def test_refuses_augmentation(self, augmentation, message):
        with pytest.raises(InputError, match=message):
            pipeline.training_batches(toy(), 3, 0, epochs=1, augmentation=augmentation)

    @parameterized.named_parameters(
        ("batch_above_set", {"batch_size": 11}, "10 examples, which fill no batch"),
        ("batch_of_none", {"batch_size": 0}, "`batch_size`"),
        ("half_a_batch", {"batch_size": 2.5}, "`batch_size`"),
        ("seed", {"seed": -1}, "`seed`"),
        ("seed_missing", {"seed": None}, "`seed`"),
        ("backwards", {"first_epoch": 3}, "first_epoch 3, epochs 2"),
    )
    def test_refuses(self, options, message):
        options = {"batch_size": 3, "seed": 0, "epochs": 2, **options}
        with pytest.raises(InputError, match=message):
            pipeline.training_batches(toy(), **options)

    def test_replicas_share_each_batch(self):
        cpus = tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([cpu.name for cpu in cpus])
        batches = pipeline.training_batches(
            toy(), 4, 0, epochs=2, augmentation=AUGMENTATION
        )
        expected = collect(batches)
        seen = []
        for images, labels in strategy.experimental_distribute_dataset(batches):
            parts = [strategy.experimental_local_results(p) for p in (images, labels)]
            self.assertLen(parts[0], len(cpus))
            seen.append(tuple(tf.concat(part, 0).numpy() for part in parts))
        assert_same(seen, expected)


class EvaluationBatchesTest(parameterized.TestCase):
    @parameterized.parameters(
        # batch_size, start, count, examples seen
        (4, 0, None, range(10)),
        (5, 0, None, range(10)),
        (4, 3, 5, range(3, 8)),
        (64, 8, None, range(8, 10)),
        (1, 9, 1, range(9, 10)),
    )
    def test_order_and_padding(self, batch_size, start, count, expected):
        dataset = toy()
        batches = pipeline.evaluation_batches(dataset, batch_size, start, count)
        shapes = [spec.shape.as_list() for spec in batches.element_spec]
        self.assertEqual(shapes, [[batch_size, 6, 5, 2], [batch_size], [batch_size]])
        parts = [np.concatenate(part) for part in zip(*collect(batches), strict=True)]
        images, labels, weights = parts
        self.assertEqual(images.dtype, np.float32)
        self.assertEqual(weights.dtype, np.float32)
        filled = len(weights) - len(expected)
        self.assertLess(filled, batch_size)
        np.testing.assert_array_equal(weights, [1.0] * len(expected) + [0.0] * filled)
        indices = [*expected, *[expected[-1]] * filled]
        np.testing.assert_array_equal(labels, indices)
        np.testing.assert_array_equal(images, dataset.floats(indices))

    @parameterized.parameters(
        ({"start": 10}, "start 10, count 0"),
        ({"start": 8, "count": 3}, "has 10 examples"),
        ({"count": 0}, "`count`"),
        ({"start": -1}, "`start`"),
        ({"batch_size": 0}, "`batch_size`"),
    )
    def test_refuses(self, options, message):
        with pytest.raises(InputError, match=message):
            pipeline.evaluation_batches(toy(), **{"batch_size": 4, **options})
