import pathlib

import gin
import pytest

from robust_tf.data import statistics
from robust_tf.data.augmentation import RandomFlipAndCrop
from robust_tf.data.crops import CentreCrop
from robust_tf.data.crops import RandomResizedCrop
from robust_tf.experiments import configuration

FOLDER = pathlib.Path(__file__).parents[2] / "gin_configs" / "datasets"
# Where the file is not called as the set.
NAMES = {
    "cifar10_edge2": "cifar10",
    "imagenet": "imagenet2012",
    "imagenet64": "imagenet_resized/64x64",
}
AUGMENTATIONS = {
    "cifar10": RandomFlipAndCrop(flip=True, padding=4, padding_mode="zero"),
    "cifar10_edge2": RandomFlipAndCrop(flip=True, padding=2, padding_mode="edge"),
    "imagenet": RandomResizedCrop(224, (0.08, 1.0), (3 / 4, 4 / 3), flip=True),
    "imagenet64": RandomFlipAndCrop(flip=True, padding=4, padding_mode="edge"),
    "svhn_cropped": RandomFlipAndCrop(flip=False, padding=4, padding_mode="zero"),
    "tiny_imagenet": RandomFlipAndCrop(flip=True, padding=4, padding_mode="edge"),
}


@pytest.fixture(autouse=True)
def fresh_configuration():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.gin")))
def test_binds_set_augmentation_and_normalization(name):
    configuration.parse([str(FOLDER / f"{name}.gin")], None)
    dataset = NAMES.get(name, name)
    assert gin.query_parameter("settings.Data.name") == dataset
    if name in AUGMENTATIONS:
        bound = gin.query_parameter("settings.Data.augmentation")
        assert bound.scoped_configurable_fn() == AUGMENTATIONS[name]
        assert gin.query_parameter("statistics.normalization.name") == dataset
        bound = gin.query_parameter("NORMALIZATION/gin.macro.value")
        expected = statistics.normalization(dataset)
        assert bound.scoped_configurable_fn() == expected
        assert len(expected[0]) == 3
    else:  # Not normalised.
        means, deviations = statistics.normalization(dataset)
        channels = 3 if name == "gts" else 1
        assert means == channels * (0.0,)
        assert deviations == channels * (1.0,)


def test_images_of_many_shapes_are_cropped():
    configuration.parse([str(FOLDER / "imagenet.gin")], None)
    bound = gin.query_parameter("settings.Data.evaluation_crop")
    assert bound.scoped_configurable_fn() == CentreCrop(size=224, shorter_side=256)
