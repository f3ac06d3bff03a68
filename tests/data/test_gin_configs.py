import pathlib

import gin
import pytest

from robust_tf.data.augmentation import RandomFlipAndCrop

FOLDER = pathlib.Path(__file__).parents[2] / "gin_configs" / "datasets"
AUGMENTATIONS = {
    "cifar10": RandomFlipAndCrop(flip=True, padding=4, padding_mode="zero"),
    "svhn_cropped": RandomFlipAndCrop(flip=False, padding=4, padding_mode="zero"),
}


@pytest.fixture(autouse=True)
def fresh_configuration():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.gin")))
def test_binds_set_and_augmentation(name):
    gin.parse_config_file(str(FOLDER / f"{name}.gin"))
    assert gin.query_parameter("settings.Data.name") == name
    if name in AUGMENTATIONS:
        bound = gin.query_parameter("settings.Data.augmentation")
        assert bound.scoped_configurable_fn() == AUGMENTATIONS[name]
