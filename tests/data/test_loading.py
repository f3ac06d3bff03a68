import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from robust_tf.data import loading
from robust_tf.data import tfds_folder
from robust_tf.errors import InputError

load = loading.load

DIGITS_TEST_DIGEST = "99ff8edaa559a780e1723c3e721e8333467ea581e3f5676a6785e6f0a4d2b7a1"
# Images of each class in MNIST's training split.
MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def positions(dataset):
    """What the images of `examples` say about where they come from."""
    return dataset.images[:, 0, 0, 0].tolist()


class TestDigits:
    def test_splits(self):
        train, test = load("digits", "train"), load("digits", "test")
        assert (len(train), len(test)) == (1437, 360)
        assert train.image_shape == (8, 8, 1)
        assert train.images.dtype == np.float32
        assert train.images.min() == 0.0
        assert train.images.max() == 1.0
        counts = np.bincount(test.labels, minlength=10)
        assert set(counts) <= {35, 36, 37}  # A fifth of 174 to 183.

    def test_split_is_fixed(self):
        # Of the first version of this split: results rest on it.
        load("digits", "test", expected_digest=DIGITS_TEST_DIGEST)

    def test_splits_share_no_example(self):
        train, test = load("digits", "train"), load("digits", "test")
        rows = {image.tobytes() for image in train.images}
        assert not rows & {image.tobytes() for image in test.images}

    @pytest.mark.usefixtures("no_sockets")
    def test_opens_no_connection(self):
        load("digits", "train", validation_share=0.2)

    def test_has_no_validation_split_of_its_own(self):
        with pytest.raises(InputError, match="validation_share=0.1"):
            load("digits", "validation")


class TestValidation:
    def test_is_the_end_of_the_training_split(self, write_set):
        root = write_set()
        train = load("toy", "train", root, validation_share=0.3)
        validation = load("toy", "validation", root, validation_share=0.3)
        assert positions(train) == [0, 1, 2, 3, 4, 5, 6]
        assert positions(validation) == [7, 8, 9]
        assert validation.split == "validation"
        test = load("toy", "test", root, validation_share=0.3)
        assert positions(test) == [100, 101, 102, 103]

    def test_permutation_is_fixed_by_its_seed(self, write_set):
        root = write_set()

        def parts(seed):
            splits = ("train", "validation")
            sets = [load("toy", split, root, 0.3, seed) for split in splits]
            return [positions(part) for part in sets]

        train, validation = parts(0)
        assert parts(0) == [train, validation]
        assert parts(1) != [train, validation]
        assert sorted(train + validation) == list(range(10))
        assert validation != [7, 8, 9]

    def test_share_is_not_cut_short_by_rounding(self, write_set):
        # (1 - 0.9) * 10 is 0.9999999999999998.
        train = load("toy", "train", write_set(), validation_share=0.9)
        assert positions(train) == [0]

    def test_own_split(self, write_set):
        root = write_set(train=(3,), validation=(2, 50), test=(2,))
        assert positions(load("toy", "validation", root)) == [50, 51]
        cut = load("toy", "validation", root, validation_share=0.4)
        assert positions(cut) == [1, 2]

    def test_stands_for_a_missing_test_split(self, write_set):
        root = write_set(train=(3,), validation=(2, 50))
        assert positions(load("toy", "test", root)) == [50, 51]
        # And then must not select the model, too.
        with pytest.raises(InputError, match="validation_share=0.1"):
            load("toy", "validation", root)

    @pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
    def test_refuses_share(self, share):
        with pytest.raises(InputError, match="at least 0 and below"):
            load("digits", "train", validation_share=share)

    def test_refuses_share_that_leaves_nothing(self, write_set):
        with pytest.raises(InputError, match="0.95 of 10 examples in 'toy'"):
            load("toy", "train", write_set(), validation_share=0.95)


class TestFolder:
    def test_opens_no_connection(self, write_set, forbid_sockets):
        root = write_set()
        forbid_sockets()
        assert positions(load("toy", "train", root)) == list(range(10))

    def test_reads_images_labels_and_classes(self, write_set):
        dataset = load("toy", "train", write_set())
        np.testing.assert_array_equal(dataset.labels, np.arange(10) % 3)
        assert dataset.images.dtype == np.uint8
        assert dataset.image_shape == (4, 5, 3)
        assert dataset.num_classes == 3

    def test_newest_version_is_taken(self, write_set):
        write_set(version="1.10.0", train=(3,), test=(1,))
        root = write_set(version="1.9.0", train=(2,), test=(1,))
        (root / "toy" / "2.0.0").mkdir()  # Without files: not a version.
        assert len(load("toy", "train", root)) == 3
        assert len(load("toy:1.9.0", "train", root)) == 2

    def test_configurations(self, write_set):
        root = write_set(config="small", train=(3,), test=(1,))
        assert len(load("toy", "train", root)) == 3
        write_set(config="large")
        assert len(load("toy/large", "train", root)) == 10
        assert len(load("toy/small:1.0.0", "train", root)) == 3
        with pytest.raises(InputError, match=r"\['large', 'small'\]"):
            load("toy", "train", root)

    @pytest.mark.parametrize("variable", ["TFDS_DATA_DIR", "HOME"])
    def test_default_folders(self, write_set, monkeypatch, variable):
        root = write_set()
        monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
        if variable == "HOME":
            home = root / "home"
            home.mkdir()
            (home / "tensorflow_datasets").symlink_to(root)
            monkeypatch.setenv(variable, str(home))
        else:
            monkeypatch.setenv(variable, str(root))
        assert len(load("toy", "test")) == 4

    def test_missing_set(self, tmp_path):
        (tmp_path / "mnist").mkdir()
        with pytest.raises(InputError) as caught:
            load("cifar10", "train", tmp_path)
        for part in ("'cifar10'", str(tmp_path), "['mnist']", "--data_dir", "download"):
            assert part in str(caught.value)

    def test_missing_version(self, write_set):
        with pytest.raises(InputError, match=r"'toy:2.0.0'.*toy holds \['1.0.0'\]"):
            load("toy:2.0.0", "train", write_set())

    def test_missing_folder(self, tmp_path):
        with pytest.raises(InputError, match="nowhere does not exist"):
            load("mnist", "train", tmp_path / "nowhere")

    @pytest.mark.parametrize("name", ["../mnist", "", "a/b/c", "mnist:newest"])
    def test_refuses_name(self, name, tmp_path):
        with pytest.raises(InputError, match="A data set is called"):
            load(name, "train", tmp_path)

    def test_refuses_split(self, tmp_path):
        with pytest.raises(InputError, match="'dev'"):
            load("mnist", "dev", tmp_path)

    def test_missing_split(self, write_set):
        root = write_set(train=(3,))
        with pytest.raises(InputError, match=r"for 'test'. Received: splits \['train'"):
            load("toy", "test", root)

    def test_digest(self, write_set):
        root = write_set()
        digest = load("toy", "test", root).digest
        load("toy", "test", root, expected_digest=digest)
        with pytest.raises(InputError, match=f"Expected: {digest}. Received: [0-9a-f]"):
            load("toy", "train", root, expected_digest=digest)

    @pytest.mark.parametrize(
        ("features", "example", "message"),
        [
            ({"label": tfds.features.ClassLabel(num_classes=3)}, {"label": 1}, "image"),
            ({"image": tfds.features.Image(shape=(4, 5, 3))}, {}, "label"),
            (
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=3),
                },
                {"label": 1},
                "have many shapes.*Received: tfrecord",
            ),
            (
                {
                    "image": tfds.features.Image(shape=(4, 5, 3)),
                    "label": tfds.features.Text(),
                },
                {"label": "cat"},
                "one class",
            ),
        ],
        ids=["no_image", "no_label", "many_shapes", "text"],
    )
    def test_refuses_other_features(self, write_set, features, example, message):
        if "image" in features:
            example = {"image": np.zeros((4, 5, 3), np.uint8), **example}
        root = write_set(features=features, train=[(0, example)])
        with pytest.raises(InputError, match=message):
            load("toy", "train", root)

    @pytest.mark.parametrize(
        ("file", "damage"),
        [
            ("toy-train.tfrecord-00000-of-00001", lambda old: old[:100]),
            ("toy-train.tfrecord-00000-of-00001", lambda old: old[: len(old) // 2]),
            ("toy-train.tfrecord-00000-of-00001", lambda old: old[::-1]),
            ("toy-train.tfrecord-00000-of-00001", lambda _: b""),
            ("toy-train.tfrecord-00000-of-00001", None),
            ("features.json", lambda old: old[:-9]),
            ("features.json", None),
            ("dataset_info.json", lambda _: b"{"),
        ],
    )
    def test_damaged_files(self, write_set, file, damage):
        folder = write_set() / "toy" / "1.0.0"
        content = (folder / file).read_bytes()
        (folder / file).unlink()
        if damage is not None:
            (folder / file).write_bytes(damage(content))
        with pytest.raises(InputError, match=f"{folder} cannot be read"):
            load("toy", "train", folder.parents[1])

    @pytest.mark.parametrize("name", ["canary.Feature", "tensorflow_datasets.x.Y"])
    def test_classes_from_outside_are_not_imported(
        self, write_set, tmp_path, monkeypatch, name
    ):
        (tmp_path / "canary.py").write_text("raise SystemExit('it ran')")
        monkeypatch.syspath_prepend(tmp_path)
        path = write_set() / "toy" / "1.0.0" / "features.json"
        wanted = "tensorflow_datasets.core.features.image_feature.Image"
        text = path.read_text()
        assert wanted in text
        path.write_text(text.replace(wanted, name))
        with pytest.raises(InputError, match=f"features of TFDS itself.*{name}"):
            load("toy", "train", tmp_path)


class TestDownload:
    def test_prepares_what_is_missing(self, write_set, tmp_path, monkeypatch):
        asked = []

        class Builder:
            data_dir = tmp_path / "toy" / "1.0.0"
            info = types.SimpleNamespace(features=None)

            def download_and_prepare(self):
                write_set()

        def builder(name, data_dir):
            asked.append((name, data_dir))
            return Builder()

        monkeypatch.setattr(tfds_folder.tfds, "builder", builder)
        for _ in range(2):  # The second time it is there.
            assert len(load("toy", "test", tmp_path, download=True)) == 4
        assert asked == [("toy", tmp_path)]

    @pytest.mark.usefixtures("no_sockets")
    def test_unknown_name(self, tmp_path):
        with pytest.raises(InputError, match="'no_such_set'"):
            load("no_such_set", "test", tmp_path, download=True)


@pytest.mark.usefixtures("no_sockets")
class TestRealData:
    def test_mnist(self, real_data):
        train, test = (load("mnist", split, real_data) for split in ("train", "test"))
        assert (len(train), len(test)) == (60000, 10000)
        assert train.image_shape == (28, 28, 1)
        # The widely published mean and standard deviation of its pixels.
        assert train.floats().mean(dtype=np.float64).round(4) == 0.1307
        assert train.floats().std(dtype=np.float64).round(4) == 0.3081
        assert list(np.bincount(train.labels)) == MNIST_COUNTS

    def test_cifar10(self, real_data):
        test = load("cifar10", "test", real_data)
        assert test.images.shape == (10000, 32, 32, 3)
        assert list(np.bincount(test.labels)) == [1000] * 10
