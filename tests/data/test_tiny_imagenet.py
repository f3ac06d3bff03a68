import hashlib
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from robust_tf.data import loading
from robust_tf.data import statistics
from robust_tf.data import tiny_imagenet
from robust_tf.data.augmentation import RandomFlipAndCrop
from robust_tf.errors import InputError

load = loading.load

WNIDS = [f"n{10 * number:08d}" for number in range(200)]
# Label of each image, by number: in `train` the images of a class, in `val` all.
TRAIN = {0: 3, 7: 12, 199: 2}
VALIDATION = [7, 199, 0, 0, 7, 1, 7, 199, 0, 7, 42, 3]


def image(seed, size=(64, 64), mode="RGB"):
    """Noise of low frequency, which JPEG keeps nearly as it is."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return PIL.Image.fromarray(noise).resize(size).convert(mode)


def write_original(root, flat=False, wnids=WNIDS):
    """A folder `tiny-imagenet-200` with a few images; the seed of each is a number."""
    folder = root / "tiny-imagenet-200"
    for wnid in WNIDS:
        (folder / "train" / wnid / ("" if flat else "images")).mkdir(parents=True)
    for label, count in TRAIN.items():
        place = folder / "train" / WNIDS[label] / ("" if flat else "images")
        for number in range(count):
            path = place / f"{WNIDS[label]}_{number}.JPEG"
            image(1000 * label + number).save(path, quality=95)
    annotations = []
    for number, label in enumerate(VALIDATION):
        place = folder / "val" / (WNIDS[label] if flat else "images")
        place.mkdir(parents=True, exist_ok=True)
        image(10**6 + number).save(place / f"val_{number}.JPEG", quality=95)
        annotations.append(f"val_{number}.JPEG\t{WNIDS[label]}\t0\t0\t63\t63\n")
    if flat:
        (folder / "val" / "images").mkdir()  # Left over.
    else:
        # Of the whole set, of which images may be missing.
        annotations += [f"val_9999.JPEG\t{WNIDS[5]}\t0\t0\t63\t63\n", "\n"]
        (folder / "val" / "val_annotations.txt").write_text("".join(annotations[::-1]))
    if wnids:
        (folder / "wnids.txt").write_text("\n".join(wnids[::-1]) + "\n")
    return folder


def seeds(split):
    if split == "train":
        return [1000 * label + i for label, n in TRAIN.items() for i in range(n)]
    return [10**6 + number for number in range(len(VALIDATION))]


@pytest.fixture
def original(tmp_path):
    return write_original(tmp_path / "original")


@pytest.fixture
def warnings(monkeypatch):
    """What is logged as a warning."""
    logged = []
    monkeypatch.setattr(
        tiny_imagenet.logging, "warning", lambda text, *args: logged.append(text % args)
    )
    return logged


def files(folder):
    return sorted(str(path) for path in folder.rglob("*"))


class TestOriginalFolder:
    @pytest.mark.usefixtures("no_sockets")
    @pytest.mark.parametrize("flat", [False, True], ids=["original", "flat"])
    @pytest.mark.parametrize("wnids", [WNIDS, None], ids=["wnids", "folders"])
    def test_order_labels_and_pixels(self, tmp_path, flat, wnids):
        folder = write_original(tmp_path, flat, wnids)
        before = files(tmp_path)
        train = load("tiny_imagenet", "train", tmp_path)
        test = load("tiny_imagenet", "test", tmp_path)
        expected = [label for label, n in TRAIN.items() for _ in range(n)]
        np.testing.assert_array_equal(train.labels, expected)
        np.testing.assert_array_equal(test.labels, VALIDATION)
        for dataset, split in ((train, "train"), (test, "validation")):
            assert dataset.num_classes == 200
            assert dataset.images.dtype == np.uint8
            assert dataset.image_shape == (64, 64, 3)
            for pixels, seed in zip(dataset.images, seeds(split), strict=True):
                difference = pixels.astype(int) - np.asarray(image(seed))
                assert np.abs(difference).mean() < 4.0
        path = folder / "train" / WNIDS[7] / ("" if flat else "images")
        with PIL.Image.open(path / f"{WNIDS[7]}_10.JPEG") as pixels:
            np.testing.assert_array_equal(train.images[3 + 10], np.asarray(pixels))
        assert files(tmp_path) == before  # Nothing is written.

    def test_layouts_have_one_digest(self, tmp_path):
        for split in ("train", "test"):
            digests = set()
            for flat in (False, True):
                root = tmp_path / f"{flat}"
                if not root.exists():
                    write_original(root, flat)
                digests.add(load("tiny_imagenet", split, root).digest)
            assert len(digests) == 1

    def test_pixels_are_those_of_tensorflow_decoding_accurately(self, original):
        test = load("tiny_imagenet", "test", original)
        for number, pixels in enumerate(test.images):
            content = (original / "val" / "images" / f"val_{number}.JPEG").read_bytes()
            decoded = tf.io.decode_jpeg(content, 3, dct_method="INTEGER_ACCURATE")
            np.testing.assert_array_equal(pixels, decoded)

    def test_grey_becomes_rgb(self, original):
        path = original / "val" / "images" / "val_3.JPEG"
        image(1, mode="L").save(path)
        pixels = load("tiny_imagenet", "test", original).images[3]
        with PIL.Image.open(path) as grey:
            assert grey.mode == "L"
            np.testing.assert_array_equal(pixels, np.stack([np.asarray(grey)] * 3, -1))

    @pytest.mark.parametrize("name", ["tiny_imagenet", "tiny_imagenet:1.0.0"])
    def test_is_found(self, original, monkeypatch, name):
        assert len(load(name, "test", original.parent)) == 12
        assert len(load(name, "test", str(original))) == 12
        renamed = original.rename(original.parent / "renamed")
        assert len(load(name, "test", renamed)) == 12
        monkeypatch.setenv("TFDS_DATA_DIR", str(renamed))
        assert len(load(name, "test")) == 12

    def test_another_version_is_not(self, original):
        with pytest.raises(InputError, match="'tiny_imagenet:2.0.0' was not found"):
            load("tiny_imagenet:2.0.0", "test", original.parent)

    def test_partial_copy_is_told(self, original, warnings):
        load("tiny_imagenet", "train", original)
        load("tiny_imagenet", "test", original)
        assert [text.partition(" is partial: ")[2] for text in warnings] == [
            "17 of 100,000 train images.",
            "12 of 10,000 validation images.",
        ]
        assert str(original) in warnings[0]

    def test_hidden_files_are_passed_over(self, original):
        (original / "train" / ".cache").mkdir()
        (original / "val" / "images" / "._val_0.JPEG").write_bytes(b"x")
        assert len(load("tiny_imagenet", "train", original)) == 17
        assert len(load("tiny_imagenet", "test", original)) == 12


class TestValidation:
    def test_classes_are_mixed_by_default(self, original):
        def labels(split, seed):
            return load("tiny_imagenet", split, original, 0.5, seed).labels.tolist()

        train, validation = labels("train", None), labels("validation", None)
        assert sorted(train + validation) == [0] * 3 + [7] * 12 + [199] * 2
        assert len(validation) == 9
        # In stored order, it would be sorted and without class 0.
        assert validation != sorted(validation)
        seed = loading.SORTED_SPLIT_SEED
        assert (labels("train", seed), labels("validation", seed)) == (
            train,
            validation,
        )
        assert labels("train", seed + 1) != train

    def test_the_official_split_stands_for_the_test_split_only(self, original):
        with pytest.raises(InputError, match="validation_share=0.1"):
            load("tiny_imagenet", "validation", original)

    def test_any_set_that_is_stored_by_class(self, write_set):
        blank = np.zeros((4, 5, 3), np.uint8)
        stored = [(i, {"image": blank + i, "label": i // 4}) for i in range(12)]
        root = write_set(train=stored, test=(2,))
        parts = [load("toy", split, root, 0.25) for split in ("train", "validation")]
        order = np.random.RandomState(0).permutation(12)
        assert parts[0].images[:, 0, 0, 0].tolist() == order[:9].tolist()
        assert parts[1].images[:, 0, 0, 0].tolist() == order[9:].tolist()


class TestErrors:
    """Each names the file, what it holds, and what to do."""

    @pytest.mark.parametrize(
        ("split", "damage", "message"),
        [
            ("train", "train", r"folder \S*/train. Received: nothing there"),
            ("test", "val", r"folder \S*/val. Received: nothing there"),
            ("test", "val/val_annotations.txt", r"/val_annotations.txt cannot be read"),
            ("test", "val/images", r"/val should hold images .* no `\*.JPEG`"),
        ],
    )
    def test_missing(self, original, split, damage, message):
        path = original / damage
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(InputError, match=f"{message}.*Extract .*zip anew"):
            load("tiny_imagenet", split, original.parent)

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("wnids.txt", "n1 n2 n2", "Received: 2 different ones of 3 in .*wnids.txt"),
            ("wnids.txt", b"\xff\xfe", "wnids.txt cannot be read"),
            ("val/val_annotations.txt", b"\xff", "annotations.txt cannot be read"),
            (
                "val/val_annotations.txt",
                "val_0.JPEG\tn123",
                r"annotations.txt, line 1 names a class .*Received: 'n123'",
            ),
            ("val/val_annotations.txt", "val_0.JPEG", "line 1 names.*Received: ''"),
            (
                "val/val_annotations.txt",
                f"val_0.JPEG\t{WNIDS[0]}",
                "Received: no line on val_1.JPEG",
            ),
        ],
    )
    def test_texts(self, original, file, content, message):
        content = content if isinstance(content, bytes) else content.encode()
        (original / file).write_bytes(content)
        with pytest.raises(InputError, match=f"{message}.*Extract .*zip anew"):
            load("tiny_imagenet", "test", original)

    def test_unknown_class_folder(self, original):
        (original / "train" / "n99999999").mkdir()
        with pytest.raises(InputError, match="/train names a class .*'n99999999'"):
            load("tiny_imagenet", "train", original)

    def test_too_few_folders_to_tell_the_classes(self, tmp_path):
        folder = write_original(tmp_path, wnids=None)
        shutil.rmtree(folder / "train" / WNIDS[3])
        with pytest.raises(InputError, match="`wnids.txt`.*Received: 199 different"):
            load("tiny_imagenet", "test", folder)

    @pytest.mark.parametrize(
        "change",
        [
            lambda old: old[:300],
            lambda old: old[:-100],
            lambda _: b"",
            lambda _: b"no image",
            lambda old: old[::-1],
        ],
        ids=["header", "cut_off", "empty", "text", "reversed"],
    )
    def test_unreadable_image(self, original, change):
        path = original / "val" / "images" / "val_4.JPEG"
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(InputError, match="val_4.JPEG should be a JPEG. Received"):
            load("tiny_imagenet", "test", original)

    def test_other_formats_are_not_decoded(self, original):
        path = original / "val" / "images" / "val_4.JPEG"
        image(1).save(path, format="PNG")
        with pytest.raises(InputError, match="val_4.JPEG should be a JPEG. Received"):
            load("tiny_imagenet", "test", original)

    def test_wrong_size(self, original):
        path = original / "train" / WNIDS[7] / "images" / f"{WNIDS[7]}_0.JPEG"
        image(1, size=(64, 65)).save(path)
        with pytest.raises(InputError, match=f"Received: {path}, of 64x65"):
            load("tiny_imagenet", "train", original)

    @pytest.mark.usefixtures("no_sockets")
    def test_neither_form(self, tmp_path):
        with pytest.raises(InputError) as caught:
            load("tiny_imagenet", "train", tmp_path)
        for part in ("tiny_imagenet/", f"{tmp_path}/tiny-imagenet-200/", "download="):
            assert part in str(caught.value)


class TestBuilder:
    @pytest.fixture
    def prepared(self, original, tmp_path):
        builder = tfds.builder(
            "tiny_imagenet", folder=original, data_dir=tmp_path / "tfds"
        )
        # Several files: their order counts.
        config = tfds.download.DownloadConfig(num_shards=3)
        builder.download_and_prepare(download_config=config)
        return tmp_path / "tfds"

    def test_holds_the_same_examples(self, prepared, original):
        folder = prepared / "tiny_imagenet" / "1.0.0"
        assert len(list(folder.glob("*-of-00003"))) == 6
        for split in ("train", "test"):
            digest = load("tiny_imagenet", split, original).digest
            dataset = load("tiny_imagenet", split, prepared, expected_digest=digest)
            assert dataset.num_classes == 200
            load("tiny_imagenet:1.0.0", split, prepared, expected_digest=digest)
        parts = [load("tiny_imagenet", "train", p, 0.5) for p in (prepared, original)]
        assert parts[0].digest == parts[1].digest
        info = tfds.builder_from_directory(folder).info
        assert info.features["label"].names == WNIDS

    def test_is_preferred(self, prepared, original):
        moved = original.rename(prepared / "tiny-imagenet-200")
        shutil.rmtree(moved / "val")
        assert len(load("tiny_imagenet", "test", prepared)) == 12

    def test_is_not_trusted(self, prepared):
        path = prepared / "tiny_imagenet" / "1.0.0" / "features.json"
        text = path.read_text()
        wanted = "tensorflow_datasets.core.features.image_feature.Image"
        assert wanted in text
        path.write_text(text.replace(wanted, "canary.Feature"))
        with pytest.raises(InputError, match="features of TFDS itself only.*canary"):
            load("tiny_imagenet", "train", prepared)

    def test_damaged_original(self, original, tmp_path):
        (original / "val" / "images" / "val_4.JPEG").write_bytes(b"")
        builder = tiny_imagenet.TinyImagenet(folder=original, data_dir=tmp_path)
        with pytest.raises(InputError, match="val_4.JPEG should be a JPEG"):
            builder.download_and_prepare()


class TestDownload:
    @pytest.fixture
    def archive(self, original, tmp_path):
        """An archive where TFDS looks for what was fetched by hand."""
        manual = tmp_path / "data" / "downloads" / "manual"
        manual.mkdir(parents=True)
        name = str(manual / "tiny-imagenet-200")
        return pathlib.Path(
            shutil.make_archive(name, "zip", original.parent, original.name)
        )

    def test_the_checksum_is_recorded(self):
        info = tiny_imagenet.TinyImagenet.url_infos[tiny_imagenet.URL]
        assert info.size == 248_100_043
        assert info.filename == "tiny-imagenet-200.zip"
        assert len(bytes.fromhex(info.checksum)) == 32

    @pytest.mark.usefixtures("no_sockets")
    def test_prepares_the_archive(self, archive, original, tmp_path, monkeypatch):
        recorded = tiny_imagenet.TinyImagenet.url_infos[tiny_imagenet.URL]
        monkeypatch.setattr(
            recorded, "checksum", hashlib.sha256(archive.read_bytes()).hexdigest()
        )
        monkeypatch.setattr(recorded, "size", archive.stat().st_size)
        dataset = load("tiny_imagenet", "test", tmp_path / "data", download=True)
        assert dataset.digest == load("tiny_imagenet", "test", original).digest
        # And is read without being asked for again.
        assert len(load("tiny_imagenet", "train", tmp_path / "data")) == 17

    @pytest.mark.usefixtures("no_sockets", "archive")
    def test_refuses_another_archive(self, tmp_path):
        with pytest.raises(Exception, match="wrong checksum"):
            load("tiny_imagenet", "test", tmp_path / "data", download=True)
        with pytest.raises(InputError, match="was not found"):
            load("tiny_imagenet", "test", tmp_path / "data")

    @pytest.mark.usefixtures("no_sockets")
    def test_refuses_to_work_without_a_checksum(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tiny_imagenet.TinyImagenet, "url_infos", None)
        with pytest.raises(InputError, match="checksums.tsv.*Install"):
            load("tiny_imagenet", "test", tmp_path, download=True)

    @pytest.mark.usefixtures("no_sockets")
    def test_an_original_folder_is_enough(self, original):
        assert len(load("tiny_imagenet", "test", original, download=True)) == 12


def test_augmentation_is_flip_then_crop_of_an_edge_padded_image():
    augmentation = RandomFlipAndCrop(flip=True, padding=4, padding_mode="edge")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    table = {}
    for is_flipped in (False, True):
        turned = pixels[:, ::-1] if is_flipped else pixels
        padded = np.pad(turned, [(4, 4), (4, 4), (0, 0)], mode="edge")
        for down in range(9):
            for right in range(9):
                crop = padded[down : down + 64, right : right + 64]
                table[crop.tobytes()] = (is_flipped, down, right)
    images = tf.constant(np.repeat(pixels[np.newaxis], 1500, axis=0))
    changed = augmentation(images, tf.constant([3, 4])).numpy()
    seen = {table[image.tobytes()] for image in changed}  # KeyError: no other.
    assert len(seen) == len(table) == 2 * 9 * 9


@pytest.fixture
def real_folder(real_data):
    folder = pathlib.Path(real_data).parent / "tiny-imagenet-200"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: lay TinyImageNet beside the TFDS folder")
    return folder


@pytest.mark.usefixtures("no_sockets")
class TestRealData:
    def test_partial_copy(self, real_folder, warnings):
        train = load("tiny_imagenet", "train", real_folder.parent)
        test = load("tiny_imagenet", "test", real_folder)
        assert train.image_shape == (64, 64, 3)
        assert (train.num_classes, test.num_classes) == (200, 200)
        if len(train) == 1000:
            assert list(np.bincount(train.labels)) == [5] * 200
            assert len(warnings) == 2
        # From the set's own texts, read another way.
        lines = (real_folder / "val" / "val_annotations.txt").read_text().splitlines()
        wnids = sorted((real_folder / "wnids.txt").read_text().split())
        rows = sorted(
            (int(name.removeprefix("val_").removesuffix(".JPEG")), wnid)
            for name, wnid in (line.split("\t")[:2] for line in lines)
        )
        expected = [wnids.index(wnid) for _, wnid in rows]
        assert test.labels.tolist() == expected[: len(test)]

    def test_published_statistics(self, real_folder):
        train = load("tiny_imagenet", "train", real_folder)
        mean, _ = statistics.normalization("tiny_imagenet")
        actual = train.floats().mean(axis=(0, 1, 2), dtype=np.float64)
        # The standard error of the mean of 1000 images is about 0.005.
        np.testing.assert_allclose(actual, mean, atol=0.02)
