"""Golden values of single rules: concretisation, convolutions over balls, Fast-Lin."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.bounds import LinearForm
from tests import golden_cases

CASES = golden_cases.cases()


class TestConcretisation:
    case = CASES["H_concretize"]

    def check(self, region, wanted):
        rows = tf.constant(golden_cases.array(self.case["A"]))[None]
        offset = tf.constant(golden_cases.array(self.case["b"]))[None]
        lower = region.minimum(LinearForm(rows, offset))
        upper = -region.minimum(LinearForm(-rows, -offset))
        np.testing.assert_allclose(lower[0], wanted["lower"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(upper[0], wanted["upper"], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("row", case["rows"], ids=lambda row: f"p_{row['norm']}")
    def test_ball(self, row):
        center = golden_cases.array(self.case["x"])[None]
        self.check(rt.LpBall(center, row["eps"], row["norm"], None), row)

    def test_box(self):
        box = self.case["box"]
        ends = (golden_cases.array(box[end])[None] for end in ("lower_in", "upper_in"))
        self.check(rt.Box(*ends), box)


class TestConvolutionOverBalls:
    case = CASES["M_conv_lp_deviation"]

    def bound(self, norm, radius):
        kernel = golden_cases.array(self.case["kernel_HWIO"])
        convolution = layers.Conv2D(
            kernel.shape[-1], 3, self.case["strides"], name="conv", dtype="float64"
        )
        model = keras.Sequential(
            [
                keras.Input((6, 6, 1), dtype="float64"),
                layers.ZeroPadding2D(self.case["padding"], dtype="float64"),
                convolution,
                layers.ReLU(dtype="float64"),
                layers.Flatten(dtype="float64"),
            ]
        )
        convolution.set_weights([kernel, golden_cases.array(self.case["bias"])])
        center = golden_cases.array(self.case["x"])[None]
        region = rt.LpBall(center, radius, norm, valid_range=None)
        _, bounds = rt.compute_bounds(model, region, "ibp", intermediate=True)
        return bounds["conv"]

    @pytest.mark.parametrize("row", case["rows"], ids=lambda row: f"p_{row['norm']}")
    def test_golden(self, row):
        bound = self.bound(row["norm"], row["eps"])
        center, deviation = bound.center[0], bound.radius[0]
        np.testing.assert_allclose(center, row["center_HWC"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(deviation, row["deviation_HWC"], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("norm", [1.5, 3, 7])
    def test_dual_norm_of_the_taps_inside_the_image(self, norm):
        """Exact for every p: `conv(1, |W|^q)^(1/q)`, at the borders too."""
        power = 1 / (1 - 1 / norm)
        kernel = abs(golden_cases.array(self.case["kernel_HWIO"])) ** power
        ones = tf.pad(
            tf.ones([1, 6, 6, 1], tf.float64), [[0, 0], [1, 1], [1, 1], [0, 0]]
        )
        total = tf.nn.conv2d(ones, kernel, self.case["strides"], "VALID")
        wanted = 0.25 * total ** (1 / power)
        np.testing.assert_allclose(
            self.bound(norm, 0.25).radius, wanted, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(
    "row",
    CASES["P_fastlin_forward"]["rows"],
    ids=lambda row: f"{row['case']}_{row['sample']}",
)
def test_fast_lin(row):
    """Same slopes on both sides, by backward passes (arXiv:1804.09699)."""
    case = CASES[row["case"]]
    bounds = rt.compute_bounds(
        golden_cases.build(case),
        golden_cases.region(case),
        "crown",
        relaxation="same-slope",
        intersect_intermediates=False,
    )
    wanted = row["backward_same_slope_output"]
    for actual, end in ((bounds.lower, "lower"), (bounds.upper, "upper")):
        np.testing.assert_allclose(
            actual[row["sample"]], wanted[end], rtol=0, atol=1e-9
        )
