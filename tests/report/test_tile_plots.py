"""Gradients and filters as pixels: scales, layout, and what is drawn."""

import keras
import numpy as np
import pytest

from robust_tf import layers
from robust_tf.architectures import max_margin
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.report import tile_plots
from robust_tf.report import tiles


def test_scale_of_gradients():
    gradients = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    gradients[0, 0, 0, 0], gradients[0, 0, 1] = 50.0, 0.0
    gradients[1] *= 1e-200  # Whose squares are 0.
    pixels = tiles.gradient_pixels(gradients)
    deviation = gradients[0].std()
    assert pixels[0, 0, 0, 0] == 1.0
    np.testing.assert_array_equal(pixels[0, 0, 1], 0.5)
    others = np.clip(0.5 + gradients[0] / (6.0 * deviation), 0.0, 1.0)
    np.testing.assert_allclose(pixels[0], others, atol=1e-12)
    assert pixels[1].std() == pytest.approx(1 / 6, rel=0.05)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constant_gradients_are_grey(value):
    pixels = tiles.gradient_pixels(np.full((1, 4, 4, 1), value))
    np.testing.assert_array_equal(pixels, 0.5)


def test_layout_of_filters():
    kernel = np.arange(48.0).reshape(4, 4, 3)
    tile = tiles.filter_tile(kernel, 3)
    assert tile.shape == (4, 12)
    np.testing.assert_array_equal(tile[:, 4:8], kernel[..., 1])
    kernel = np.arange(256.0).reshape(4, 4, 16)
    tile = tiles.filter_tile(kernel, 4)
    assert tile.shape == (16, 16)
    np.testing.assert_array_equal(tile[4:8, 8:12], kernel[..., 6])
    tile = tiles.filter_tile(kernel[..., :5], 3)
    assert tile.shape == (8, 12)
    np.testing.assert_array_equal(tile[4:, 4:8], kernel[..., 4])
    assert np.isnan(tile[4:, 8:]).all() and np.isnan(tile).sum() == 16


def test_filters_of_models():
    graph = BoundGraph.from_model(max_margin.fc1((8, 8, 2), 10, units=6))
    kernel = np.asarray(graph.nodes[1].layer.kernel)
    first = tiles.filter_tiles(graph, 0, 4)
    assert first.shape == (4, 8, 16)
    image = kernel[:, 3].reshape(8, 8, 2)
    np.testing.assert_array_equal(first[3, :, :8], image[..., 0])
    np.testing.assert_array_equal(first[3, :, 8:], image[..., 1])
    assert tiles.filter_tiles(graph, 1, 4) is None  # Dense.
    assert tiles.filter_tiles(graph, 2, 4) is None  # There is none.
    graph = BoundGraph.from_model(max_margin.cnn_lenet_small((8, 8, 3), 10))
    kernels = [
        np.asarray(node.layer.kernel)
        for node in graph.nodes
        if isinstance(node.layer, layers.Conv2D)
    ]
    first = tiles.filter_tiles(graph, 0, 5)
    assert first.shape == (5, 4, 12)
    np.testing.assert_array_equal(first[2, :, 8:], kernels[0][:, :, 2, 2])
    second = tiles.filter_tiles(graph, 1, 99)
    assert second.shape == (32, 16, 16)
    np.testing.assert_array_equal(second[31, 12:, :4], kernels[1][:, :, 12, 31])


def test_other_first_layers_are_refused():
    flat = BoundGraph.from_model(
        keras.Sequential([keras.Input((5,)), layers.Dense(3, name="first")])
    )
    with pytest.raises(InputError, match=r"'first' \(Dense\), for inputs of .*\(5,\)"):
        tiles.filter_tiles(flat, 0, 4)
    pooled = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    with pytest.raises(InputError, match="reads all pixels"):
        tiles.filter_tiles(BoundGraph.from_model(pooled), 0, 4)


def test_input_gradients(figures, tmp_path):
    generator = np.random.default_rng(1)
    images = generator.uniform(size=(3, 5, 5, 1))
    gradients = {name: generator.normal(size=images.shape) for name in ("image", "b")}
    path = tmp_path / "a.png"
    tile_plots.input_gradients(images, [4, 5, 6], gradients, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    cells = figures[0].axes
    assert len(cells) == 9
    assert [axes.get_title() for axes in cells[:3]] == ["label 4", "label 5", "label 6"]
    assert [axes.get_ylabel() for axes in cells[::3]] == ["image", "image", "b"]
    shown = [np.asarray(axes.images[0].get_array()) for axes in cells]
    np.testing.assert_allclose(shown[1], images[1, ..., 0])
    expected = tiles.gradient_pixels(gradients["b"])
    np.testing.assert_allclose(shown[8], expected[2, ..., 0])
    assert cells[8].images[0].get_clim() == (0.0, 1.0)
    with pytest.raises(InputError, match="shape of the images"):
        tile_plots.input_gradients(images, [4, 5, 6], {"a": images[:2]}, path)


def test_filters(figures, tmp_path):
    shown = {
        "plain": np.full((3, 4, 12), 0.5),
        "dense": np.full((2, 8, 8), -7.0),
        "MMR": np.full((2, 4, 12), -2.0),
    }
    tile_plots.filters(shown, tmp_path / "a.png", "Filters")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    names = [axes.get_ylabel() for axes in figures[0].axes[:9:3]]
    assert names == ["plain", "MMR", "dense"]
    limits = [axes.images[0].get_clim() for axes in figures[0].axes[:9:3]]
    assert limits == [(-2.0, 2.0), (-2.0, 2.0), (-7.0, 7.0)]
    assert not figures[0].axes[5].axison  # MMR has two filters.
    image = figures[0].axes[0].images[0]
    white = image.cmap(image.norm(0.0))[:3]
    assert min(white) > 0.95 and image.cmap(1.0)[0] > image.cmap(1.0)[2]


def test_filters_of_zeros(tmp_path):
    tile_plots.filters({"a": np.zeros((1, 4, 4))}, tmp_path / "a.png", "Filters")
    assert (tmp_path / "a.png").exists()


def test_no_models(tmp_path):
    with pytest.raises(InputError, match="no gradients to draw"):
        tile_plots.input_gradients(np.zeros((1, 2, 2, 1)), [0], {}, tmp_path / "a.png")
    with pytest.raises(InputError, match="no filters to draw"):
        tile_plots.filters({}, tmp_path / "a.png", "Filters")
