"""Pictures: written whole, of the right content, and without global state."""

import numpy as np
import pytest
from absl.testing import parameterized
from matplotlib import figure as figures
from matplotlib import image as image_files

from robust_tf.errors import InputError
from robust_tf.report import plots

CURVES = {
    "ibp": [(0.0, 0.9), (0.1, 0.5), (0.2, 0.1)],
    "crown": [(0.2, 0.2), (0.1, 0.6), (0.0, 0.9)],
    "pgd": [(0.0, 0.9), (0.1, 0.8), (0.2, 0.5)],
    "clean": [(0.0, 0.9), (0.1, 0.9), (0.2, 0.9)],
}


def epochs(count, **more):
    return [
        {"epoch": epoch, "step": 10 * epoch, "seconds": 1.0, "epsilon": 0.01 * epoch}
        | {"loss": 1.0 / (epoch + 1), "clean_accuracy": 0.5, **more}
        for epoch in range(count)
    ]


class PlotsTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path, monkeypatch):
        self.path, self.figures = tmp_path / "a.png", []
        save = figures.Figure.savefig

        def keep(figure, *arguments, **options):
            self.figures.append(figure)
            return save(figure, *arguments, **options)

        monkeypatch.setattr(figures.Figure, "savefig", keep)

    def drawn(self):
        """The figure that was saved; its file is a picture and alone."""
        (figure,) = self.figures
        self.assertGreater(image_files.imread(self.path).std(), 0.0)
        self.assertEqual(list(self.path.parent.iterdir()), [self.path])
        return figure

    def test_accuracy_against_radius(self):
        plots.accuracy_against_radius(CURVES, self.path, "Title")
        (axes,) = self.drawn().axes
        self.assertEqual(axes.get_title(), "Title")
        self.assertEqual(axes.get_xlabel(), "radius (pixels in [0, 1])")
        self.assertEqual(axes.get_ylabel(), "accuracy (%)")
        lines = {line.get_label(): line for line in axes.lines}
        self.assertEqual(
            list(lines),
            ["clean", "withstands PGD", "certified by CROWN", "certified by IBP"],
        )
        crown = lines["certified by CROWN"]  # Sorted by radius, in percent.
        np.testing.assert_allclose(crown.get_xdata(), [0.0, 0.1, 0.2])
        np.testing.assert_allclose(crown.get_ydata(), [90.0, 60.0, 20.0])
        styles = {(line.get_color(), line.get_marker()) for line in axes.lines}
        self.assertLen(styles, 4)

    def test_what_is_undecided_lies_between_the_attack_and_the_best_proof(self):
        plots.accuracy_against_radius(CURVES, self.path, "Title")
        (area,) = self.drawn().axes[0].collections
        corners = {
            tuple(np.round(corner, 6)) for corner in area.get_paths()[0].vertices
        }
        self.assertContainsSubset({(0.1, 80.0), (0.1, 60.0), (0.2, 20.0)}, corners)
        self.assertNotIn((0.1, 50.0), corners)

    @parameterized.named_parameters(
        ("attack", ["clean", "pgd"]), ("proof", ["ibp"]), ("clean", ["clean"])
    )
    def test_nothing_is_shaded_without_both(self, names):
        some = {name: CURVES[name] for name in names}
        plots.accuracy_against_radius(some, self.path, "Title")
        self.assertEmpty(self.drawn().axes[0].collections)

    def test_training_curves_of_one_run(self):
        records = epochs(3, certified_loss=2.0, val_clean_accuracy=0.25)
        plots.training_curves({"mnist": records}, self.path)
        losses, accuracies, radius = self.drawn().axes
        self.assertEqual(losses.get_title(), "mnist")
        self.assertEqual(radius.get_xlabel(), "epoch")
        labels = [
            [line.get_label() for line in axes.lines] for axes in self.drawn().axes
        ]
        self.assertEqual(labels[0], ["loss", "certified loss"])
        self.assertEqual(labels[1], ["clean accuracy", "clean accuracy (validation)"])
        self.assertEqual(labels[2], ["training radius"])
        np.testing.assert_allclose(accuracies.lines[1].get_ydata(), 25.0)
        np.testing.assert_allclose(radius.lines[0].get_ydata(), [0.0, 0.01, 0.02])
        np.testing.assert_allclose(radius.lines[0].get_xdata(), [1, 2, 3])

    def test_runs_have_colours_and_quantities_have_dashes(self):
        metrics = {"a": epochs(2, standard_loss=1.0), "b": epochs(3)}
        plots.training_curves(metrics, self.path)
        lines = {line.get_label(): line for line in self.drawn().axes[0].lines}
        self.assertEqual(list(lines), ["a: loss", "a: standard loss", "b: loss"])
        first, standard, second = lines.values()
        self.assertEqual(first.get_color(), standard.get_color())
        self.assertNotEqual(first.get_color(), second.get_color())
        self.assertEqual(first.get_linestyle(), second.get_linestyle())
        self.assertNotEqual(first.get_linestyle(), standard.get_linestyle())

    def test_every_term_has_a_panel_of_its_scale(self):
        terms = {"mtl_ibp_loss": 1.0, "certified_loss": 2.0, "adversarial_loss": 0.5}
        regularizers = {"tightness_loss": 0.3, "balance_loss": 0.2}
        more = terms | regularizers | {"l1_penalty": 1e4, "active/1": 0.5}
        plots.training_curves({"a": epochs(3, **more)}, self.path)
        labels = [
            {line.get_label() for line in axes.lines} for axes in self.drawn().axes
        ]
        said = [{key.replace("_", " ") for key in x} for x in (terms, regularizers)]
        self.assertEqual(labels[:3], [said[0] | {"loss"}, said[1], {"l1 penalty"}])
        self.assertEqual(labels[3:], [{"clean accuracy"}, {"training radius"}])
        scales = {axes.get_yscale() for axes in self.drawn().axes}
        self.assertEqual(scales, {"linear"})

    def test_losses_far_apart_have_a_logarithmic_scale(self):
        plots.training_curves({"a": epochs(3, certified_loss=100.0)}, self.path)
        scales = [axes.get_yscale() for axes in self.drawn().axes]
        self.assertEqual(scales, ["log", "linear", "linear"])

    def test_neuron_shares(self):
        shares = ((0.5, 0.3, 0.2), (0.1, 0.7, 0.2))
        keys = {
            f"{state}/{number}": share
            for number, layer in enumerate(shares, 1)
            for state, share in zip(
                ("active", "unstable", "inactive"), layer, strict=True
            )
        }
        records = [*epochs(1), *epochs(3, **keys)[1:]]
        plots.neuron_shares(records, self.path, "Title")
        first, second = self.drawn().axes
        self.assertEqual(self.drawn().get_suptitle(), "Title")
        self.assertEqual(first.get_title(), "ReLU 1")
        for axes, layer in zip((first, second), shares, strict=True):
            bottom = 0.0
            for bars, share in zip(axes.containers, layer, strict=True):
                self.assertLen(bars, 2)  # Of the epochs that have shares.
                for bar, epoch in zip(bars, (2, 3), strict=True):
                    self.assertAlmostEqual(bar.get_x() + 0.5, epoch)
                    self.assertAlmostEqual(bar.get_y(), bottom)
                    self.assertAlmostEqual(bar.get_height(), 100.0 * share)
                bottom += 100.0 * share
        colours = [bars[0].get_facecolor() for bars in first.containers]
        self.assertLen(set(colours), 3)

    def test_what_is_not_finite_is_left_out(self):
        records = epochs(2) + [{"epoch": 2, "loss": None, "clean_accuracy": 0.5}]
        plots.training_curves({"a": records}, self.path)
        self.assertLen(self.drawn().axes[0].lines[0].get_xdata(), 2)

    @parameterized.parameters((1, 1), (5, 1), (16, 3))
    def test_radii_grid(self, count, channels):
        images = np.random.default_rng(0).uniform(size=(count, 4, 4, channels))
        certified, attacked = np.full(count, 0.1), np.full(count, 0.2)
        certified[-1], attacked[-1] = 0.0, np.inf
        certified[0], attacked[0] = 0.0, 0.0
        labels = np.arange(count)
        plots.radii_grid(images, labels, certified, attacked, self.path, "Title")
        shown = [axes.get_title() for axes in self.drawn().axes if axes.get_title()]
        self.assertLen(shown, count)
        self.assertEqual(shown[0], "label 0\nmisclassified")
        if count > 1:
            self.assertEqual(shown[1], "label 1\nproved 0.100\nattacked 0.200")
            last = f"label {count - 1}\nproved 0.000\nno attack found"
            self.assertEqual(shown[-1], last)

    def test_refuses(self):
        with self.assertRaisesRegex(
            InputError, r"Curves are .* Received: \['deeppoly'"
        ):
            plots.accuracy_against_radius({"deeppoly": []}, self.path, "")
        with self.assertRaisesRegex(InputError, "no epochs"):
            plots.training_curves({"a": []}, self.path)
        with self.assertRaisesRegex(InputError, "neuron_examples"):
            plots.neuron_shares(epochs(2), self.path, "Title")
        with self.assertRaisesRegex(InputError, r"Received: \[0, 1\]"):
            plots.radii_grid(np.zeros([1, 2, 2, 1]), [0], [0.0], [], self.path, "")

    def test_other_formats_by_ending(self):
        path = self.path.with_suffix(".svg")
        plots.accuracy_against_radius(CURVES, path, "Title")
        self.assertIn(b"<svg", path.read_bytes())
