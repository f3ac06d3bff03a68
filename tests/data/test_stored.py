"""Sets that stay in their files: any example by its number, batches of them."""

import dataclasses
import io
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from robust_tf.data import array_records
from robust_tf.data import load
from robust_tf.data import pipeline
from robust_tf.data import soft_targets
from robust_tf.data import subset
from robust_tf.data import tfds_folder
from robust_tf.data.augmentation import RandomFlipAndCrop
from robust_tf.data.crops import CentreCrop
from robust_tf.data.crops import RandomResizedCrop
from robust_tf.data.damage import input_error_within
from robust_tf.errors import InputError
from tests.data import stored_sets

pytest.importorskip("array_record", reason="the extra `imagenet` is not installed")

CROP = CentreCrop(16, 20)
AUGMENTATION = RandomResizedCrop(16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    stored_sets.write(folder)
    return folder


@pytest.fixture
def train(root):
    return load("toy", "train", root, evaluation_crop=CROP)


def collect(batches):
    return [tuple(part.numpy() for part in batch) for batch in batches]


def assert_same(first, second):
    for some, others in zip(first, second, strict=True):
        for part, other in zip(some, others, strict=True):
            np.testing.assert_array_equal(part, other)


class TestSet:
    def test_is_described(self, train):
        assert (len(train), train.num_classes) == (20, 5)
        assert (train.name, train.split) == ("toy", "train")
        assert train.image_shape == (16, 16, 3)

    def test_images_are_those_of_pillow(self, train):
        images = train.floats()
        assert (images.shape, images.dtype) == ((20, 16, 16, 3), np.float32)
        for content, image in zip(stored_sets.contents(20), images, strict=True):
            wanted = stored_sets.centre_crop(content, 16, 20)
            # CMYK by up to 2, see `test_decoding.py`.
            assert abs(np.rint(image * 255.0) - wanted).max() <= 2
            assert wanted.std() > 10.0

    def test_images_are_read_by_position(self, train, monkeypatch):
        monkeypatch.setattr("robust_tf.data.stored._CHUNK", 3)
        whole = train.floats()
        for indices in ([7], np.array([19, 0, 7, 7, 2]), slice(3, 12, 2), []):
            np.testing.assert_array_equal(train.floats(indices), whole[indices])

    def test_labels_are_read_as_of_an_array(self, train, monkeypatch):
        monkeypatch.setattr("robust_tf.data.stored._CHUNK", 3)
        whole = np.arange(20) % 5
        labels = train.labels
        assert len(labels) == 20
        assert labels[7] == 2 and np.ndim(labels[7]) == 0
        for indices in ([7, 3, 3], np.array([19, 0]), slice(3, 12, 2), -1):
            np.testing.assert_array_equal(labels[indices], whole[indices])
        assert labels[:].dtype == np.int32
        np.testing.assert_array_equal(np.asarray(labels), whole)
        assert (whole == labels).all()
        assert np.asarray(labels, np.int64).dtype == np.int64

    def test_select(self, train):
        chosen = train.select([4, 2, 9], "validation")
        assert (len(chosen), chosen.split) == (3, "validation")
        np.testing.assert_array_equal(chosen.labels, [4, 2, 4])
        np.testing.assert_array_equal(chosen.floats(), train.floats([4, 2, 9]))
        again = chosen.select(slice(1, None))
        np.testing.assert_array_equal(again.floats(), train.floats([2, 9]))

    def test_digest(self, root, train, tmp_path):
        def digest(folder=root, split="train", crop=CROP):
            return load("toy", split, folder, evaluation_crop=crop).digest

        assert train.digest == digest()
        load("toy", "train", root, evaluation_crop=CROP, expected_digest=train.digest)
        targets = np.full((20, 5), 0.2)
        others = {
            digest(split="test"),
            digest(crop=CentreCrop(16, 21)),
            train.select(slice(19)).digest,
            train.select(slice(19, None, -1)).digest,
            dataclasses.replace(train, targets=targets).digest,
        }
        assert len(others | {train.digest}) == 6
        # The same files at another place; other content.
        shutil.copytree(root / "toy", tmp_path / "toy")
        assert digest(tmp_path) == train.digest
        shutil.rmtree(tmp_path / "toy")
        examples = stored_sets.examples(20)
        examples[3][1]["label"] = 0
        stored_sets.write(tmp_path, train=examples)
        assert digest(tmp_path) != train.digest

    def test_validation_share(self, root):
        def part(split, seed=None):
            return load("toy", split, root, 0.25, seed, evaluation_crop=CROP)

        whole = load("toy", "train", root, evaluation_crop=CROP).floats()
        order = np.random.RandomState(0).permutation(20)
        found = part("train"), part("validation")
        assert [len(one) for one in found] == [15, 5]
        np.testing.assert_array_equal(found[0].floats(), whole[order[:15]])
        np.testing.assert_array_equal(found[1].floats(), whole[order[15:]])
        np.testing.assert_array_equal(part("train", 0).floats(), found[0].floats())
        assert part("train", 1).digest != found[0].digest

    def test_files_that_belong_to_a_set(self, train, tmp_path):
        counts = np.eye(5, dtype=int)[np.arange(20) % 5]
        (tmp_path / "t.npz").write_bytes(soft_targets.packed(train, counts))
        attached = soft_targets.attach(train, tmp_path / "t.npz")
        np.testing.assert_array_equal(attached.targets, counts)
        places = np.array([3, 5, 11])
        (tmp_path / "s.npz").write_bytes(subset.packed(train, places, ["m"]))
        chosen = subset.choose(train, tmp_path / "s.npz")
        np.testing.assert_array_equal(chosen.labels, [3, 0, 1])
        with pytest.raises(InputError, match="belong to other images"):
            soft_targets.attach(chosen, tmp_path / "t.npz")

    def test_one_stored_shape_needs_no_crop(self, tmp_path):
        contents = [stored_sets.encoded(12, 10, seed=i) for i in range(4)]
        examples = [
            (i, {"image": io.BytesIO(content), "label": i})
            for i, content in enumerate(contents)
        ]
        image = tfds.features.Image(shape=(10, 12, 3), encoding_format="jpeg")
        stored_sets.write(tmp_path, features={"image": image}, train=examples)
        dataset = load("toy", "train", tmp_path)
        assert dataset.image_shape == (10, 12, 3)
        wanted = [np.asarray(stored_sets.decoded(content)) for content in contents]
        np.testing.assert_allclose(dataset.floats() * 255.0, wanted, atol=1e-4)
        (batch,) = pipeline.evaluation_batches(dataset, 4)
        np.testing.assert_array_equal(batch[0], dataset.floats())


class TestBatches:
    def test_evaluation_is_in_order(self, train):
        batches = pipeline.evaluation_batches(train, 4, start=3, count=10)
        shapes = [spec.shape.as_list() for spec in batches.element_spec]
        assert shapes == [[4, 16, 16, 3], [4], [4]]
        images, labels, weights = map(np.concatenate, zip(*batches, strict=True))
        indices = [*range(3, 13), 12, 12]
        np.testing.assert_array_equal(images, train.floats(indices))
        np.testing.assert_array_equal(labels, train.labels[indices])
        np.testing.assert_array_equal(weights, [1.0] * 10 + [0.0] * 2)
        assert (images.dtype, labels.dtype) == (np.float32, np.int32)

    @pytest.mark.parametrize(
        "augmentation", [None, AUGMENTATION, RandomFlipAndCrop(padding=2)]
    )
    def test_resumed_run_sees_the_same_batches(self, root, augmentation):
        def run(first_epoch, seed=5):
            dataset = load("toy", "train", root, evaluation_crop=CROP)
            return collect(
                pipeline.training_batches(
                    dataset,
                    6,
                    seed,
                    epochs=3,
                    first_epoch=first_epoch,
                    augmentation=augmentation,
                )
            )

        whole = run(0)
        assert len(whole) == 9
        assert_same(run(2), whole[6:])
        assert len({images.tobytes() for images, _ in whole}) == 9
        if augmentation == AUGMENTATION:
            assert_same(run(0), whole)
            assert not np.array_equal(run(0, seed=6)[0][0], whole[0][0])

    def test_training_images_are_windows_of_the_stored_ones(self, train):
        """Not of the crops that are measured; their order is the usual one."""
        crop = RandomResizedCrop(16, area=(1.0, 1.0), aspect=(0.2, 5.0), flip=False)
        given = {"batch_size": 20, "seed": 2, "epochs": 1}
        ((images, labels),) = pipeline.training_batches(
            train, **given, augmentation=crop
        )
        ((plain, plain_labels),) = pipeline.training_batches(train, **given)
        np.testing.assert_array_equal(labels, plain_labels)
        order = [
            np.flatnonzero((train.floats() == image).all((1, 2, 3))).item()
            for image in plain.numpy()
        ]
        assert sorted(order) == list(range(20))
        sides = [stored_sets.decoded(one).size for one in stored_sets.contents(20)]
        is_whole = 0
        for place, image in zip(order, images.numpy(), strict=True):
            content = stored_sets.decoded(stored_sets.contents(20)[place])
            wanted = np.asarray(content.resize((16, 16), 2), int)  # Bilinear.
            # Where rounded sides leave the image, ten draws may find a part of it.
            is_whole += abs(np.rint(image * 255.0) - wanted).max() <= 2
        assert is_whole >= 1 and len(set(sides)) > 10

    def test_static_shapes(self, train):
        batches = pipeline.training_batches(
            train, 4, 0, epochs=1, augmentation=AUGMENTATION
        )
        images, labels = batches.element_spec
        assert images == tf.TensorSpec([4, 16, 16, 3], tf.float32)
        assert labels == tf.TensorSpec([4], tf.int32)
        found = np.concatenate([images for images, _ in batches])
        assert 0.0 <= found.min() < found.max() <= 1.0

    def test_targets_come_with_their_labels(self, train):
        targets = np.random.default_rng(0).dirichlet(np.ones(5), 20)
        dataset = dataclasses.replace(train, targets=targets)
        for images, labels in pipeline.training_batches(dataset, 5, 1, epochs=1):
            places = [
                np.flatnonzero((train.floats() == image).all((1, 2, 3))).item()
                for image in images.numpy()
            ]
            np.testing.assert_array_equal(labels["label"], train.labels[places])
            np.testing.assert_array_equal(labels["target"], dataset.targets[places])

    def test_replicas_share_each_batch(self, train):
        cpus = tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([cpu.name for cpu in cpus])
        batches = pipeline.training_batches(
            train, 4, 0, epochs=1, augmentation=AUGMENTATION
        )
        seen = []
        for batch in strategy.experimental_distribute_dataset(batches):
            parts = [strategy.experimental_local_results(part) for part in batch]
            seen.append(tuple(tf.concat(part, 0).numpy() for part in parts))
        assert_same(seen, collect(batches))

    def test_refuses_another_size(self, train):
        with pytest.raises(InputError, match="measured at 16x16.*size=32"):
            pipeline.training_batches(
                train, 4, 0, epochs=1, augmentation=RandomResizedCrop(32)
            )


class TestFolder:
    def test_validation_stands_for_a_test_split_without_labels(self, tmp_path):
        test = [(key, one | {"label": -1}) for key, one in stored_sets.examples(3)]
        splits = {"train": stored_sets.examples(4), "test": test}
        stored_sets.write(tmp_path, validation=stored_sets.examples(2, 7), **splits)
        test = load("toy", "test", tmp_path, evaluation_crop=CROP)
        assert (len(test), test.split) == (2, "test")

    def test_needs_the_format(self, tmp_path):
        folder = stored_sets.write(tmp_path, file_format="tfrecord")
        with pytest.raises(InputError) as caught:
            load("toy", "train", tmp_path, evaluation_crop=CROP)
        for part in (
            f"Received: tfrecord in {folder}.",
            "tfds.builder('toy', data_dir=FOLDER, file_format='array_record')",
            ".download_and_prepare()",
        ):
            assert part in str(caught.value)

    def test_needs_the_package(self, root, monkeypatch):
        monkeypatch.setattr(array_records.importlib.util, "find_spec", {}.get)
        with pytest.raises(InputError, match=r'pip install "robust_tf\[imagenet\]"'):
            load("toy", "train", root, evaluation_crop=CROP)

    def test_needs_a_crop(self, root):
        with pytest.raises(InputError, match="evaluation_crop None.*CentreCrop"):
            load("toy", "train", root)
        with pytest.raises(InputError, match="'digits' are held in memory"):
            load("digits", "train", evaluation_crop=CROP)

    def test_refuses_other_channels(self, tmp_path):
        image = tfds.features.Image(shape=(None, None, 4), encoding_format="png")
        content = stored_sets.encoded(9, 9, "RGBA", "PNG")
        examples = [(0, {"image": io.BytesIO(content), "label": 0})]
        stored_sets.write(tmp_path, features={"image": image}, train=examples)
        with pytest.raises(InputError, match="1 or 3 channels"):
            load("toy", "train", tmp_path, evaluation_crop=CROP)

    def test_downloads_in_the_format(self, root, tmp_path, monkeypatch):
        asked = []

        class Builder:
            data_dir = root / "toy" / "1.0.0"
            info = tfds.builder_from_directory(root / "toy" / "1.0.0").info

            def download_and_prepare(self):
                asked.append("prepared")

        def builder(name, **given):
            asked.append(given)
            return Builder()

        monkeypatch.setattr(tfds_folder.tfds, "builder", builder)
        dataset = load("toy", "train", tmp_path, download=True, evaluation_crop=CROP)
        assert len(dataset) == 20
        assert asked == [
            {"data_dir": tmp_path},
            {"data_dir": tmp_path, "file_format": "array_record"},
            "prepared",
        ]

    @pytest.mark.parametrize("limits", [(1024, -1), (1024, 4096), (-1, -1)])
    def test_files_stay_open(self, root, monkeypatch, limits):
        resource = pytest.importorskip("resource", reason="Unix alone has limits")
        raised = []
        monkeypatch.setattr(array_records, "_OTHER_FILES", 2000)
        monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
        monkeypatch.setattr(resource, "setrlimit", lambda *given: raised.append(given))
        load("toy", "train", root, evaluation_crop=CROP)
        wanted = [(resource.RLIMIT_NOFILE, (2002, limits[1]))]
        assert raised == ([] if limits[0] == -1 else wanted)

    def test_refuses_a_low_limit_of_files(self, root, monkeypatch):
        resource = pytest.importorskip("resource", reason="Unix alone has limits")
        monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 400))
        with pytest.raises(InputError, match="in 2 files.*a limit of 400.*to 514"):
            load("toy", "train", root, evaluation_crop=CROP)


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        return stored_sets.write(tmp_path)

    def damage(self, folder, place):
        """Changes a byte of the training split."""
        (file,) = folder.glob("*train*")
        content = bytearray(file.read_bytes())
        content[place] ^= 255
        file.write_bytes(content)

    def test_of_a_record(self, folder, tmp_path):
        self.damage(folder, 9000)
        train = load("toy", "train", tmp_path, evaluation_crop=CROP)
        test = load("toy", "test", tmp_path, evaluation_crop=CROP)
        assert len(test.floats()) == 9
        assert train.floats([0]).shape == (1, 16, 16, 3)
        for read in (train.floats, lambda: train.labels[:]):
            with pytest.raises(InputError, match=f"{folder} cannot be read; its fil"):
                read()
        for batches in (
            pipeline.evaluation_batches(train, 20),
            pipeline.training_batches(train, 20, 0, epochs=1),
        ):
            with pytest.raises(tf.errors.InvalidArgumentError) as caught:
                collect(batches)
            found = input_error_within(caught.value)
            assert f"'toy' in {folder} cannot be read" in str(found)
            assert str(found).endswith("Delete the folder and prepare the set anew.")

    def test_other_errors_hold_none(self):
        error = tf.errors.InvalidArgumentError(None, None, "ValueError: no\nTraceback ")
        assert input_error_within(error) is None

    @pytest.mark.parametrize("damage", [lambda old: old[:-7000], lambda old: old[::-1]])
    def test_of_a_file(self, folder, tmp_path, damage):
        (file,) = folder.glob("*train*")
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(InputError, match=f"{folder} cannot be read; its files"):
            load("toy", "train", tmp_path, evaluation_crop=CROP).floats()

    def test_a_missing_file(self, folder, tmp_path):
        (file,) = folder.glob("*train*")
        train = load("toy", "train", tmp_path, evaluation_crop=CROP)
        file.unlink()
        with pytest.raises(InputError, match=f"{folder} cannot be read"):
            assert not train.digest
        with pytest.raises(InputError, match=f"{folder} cannot be read"):
            load("toy", "train", tmp_path, evaluation_crop=CROP)

    def test_of_an_image_within_a_whole_record(self, tmp_path):
        examples = stored_sets.examples(3)
        content = stored_sets.encoded(40, 40)
        examples[1][1]["image"] = io.BytesIO(content[: len(content) // 2])
        folder = stored_sets.write(tmp_path, train=examples)
        train = load("toy", "train", tmp_path, evaluation_crop=CROP)
        assert len(train.floats([0, 2])) == 2
        with pytest.raises(InputError, match=f"{folder} cannot be read"):
            train.floats()
