"""Checked bindings, written out for gin."""

from absl.testing import parameterized

from robust_tf.errors import InputError
from robust_tf.experiments import configurables
from robust_tf.experiments import gin_values
from robust_tf.experiments.configurables import Configurable

PLACE = "test.gin, line 1"


class GinValuesTest(parameterized.TestCase):
    def test_modules_of_one_name_stay_apart(self):
        first = Configurable("robust_tf.data.noise", "add")
        second = Configurable("robust_tf.smoothing.noise", "add")
        shadow = Configurable("robust_tf.layers.keras", "add")
        adam = Configurable("keras", "optimizers.Adam")
        reference = gin_values.Reference("wide", second, True)
        text = gin_values.render(
            {
                ("", first, "scale"): (reference, PLACE),
                ("one/two", shadow, "value"): (-1, PLACE),
                ("", adam, "name"): ("x", PLACE),
            }
        )
        self.assertEqual(
            text.splitlines(),
            [
                "from __gin__ import dynamic_registration",
                "import keras",
                "from robust_tf.data import noise",
                "import robust_tf.layers.keras as robust_tf_layers_keras",
                "import robust_tf.smoothing.noise as robust_tf_smoothing_noise",
                "noise.add.scale = @wide/robust_tf_smoothing_noise.add()",
                "one/two/robust_tf_layers_keras.add.value = -1",
                "keras.optimizers.Adam.name = 'x'",
            ],
        )

    @parameterized.named_parameters(
        ("own", "N", None),
        ("scoped", "a/N", None),
        ("falls_back", "a/b", None),
        ("deeper", "N/x/y", None),
        ("unknown", "M", "no macro `%M`"),
        ("other_scope", "b/N", "no macro"),
    )
    def test_macros(self, name, message):
        bindings = {
            (scope, configurables.MACRO, "value"): (1, PLACE)
            for scope in ("N", "a", "a/N")
        }
        used = ([gin_values.Macro(name)], PLACE)
        bindings["", Configurable("robust_tf.regions", "LpBall"), "radius"] = used
        if message is None:
            gin_values.check_macros(bindings)
        else:
            with self.assertRaisesRegex(InputError, f"{PLACE}: .*{message}"):
                gin_values.check_macros(bindings)
