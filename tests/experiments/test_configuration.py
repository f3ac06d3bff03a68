"""Configurations set values, and can do nothing else."""

import functools
import os
import sys

import gin
import keras
import numpy as np
import pytest
from absl.testing import parameterized

from robust_tf import regions
from robust_tf import specifications
from robust_tf.errors import InputError
from robust_tf.experiments import configurables
from robust_tf.experiments import configuration

DYNAMIC = "from __gin__ import dynamic_registration\n"
POINT = np.zeros((1, 2), np.float32)
COMMAND = "'touch canary'"


class ConfigurationTestCase(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path, monkeypatch):
        self.folder, self.monkeypatch = tmp_path, monkeypatch
        monkeypatch.chdir(tmp_path)
        yield
        gin.clear_config()

    def write(self, text, name="test.gin", dynamic=True):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((DYNAMIC if dynamic else "") + text)
        return str(path)

    def parse(self, text, *params, dynamic=True):
        configuration.parse([self.write(text, dynamic=dynamic)], params)

    def ball(self, **kwargs):
        return configuration.call(regions.LpBall, x=POINT, **kwargs)


class NoCodeTest(ConfigurationTestCase):
    """Each way to run code is refused before anything has run, or was even bound."""

    @pytest.fixture(autouse=True)
    def _canaries(self, _folder):
        self.executed = []

        def watch(owner, name):
            def note(*args, **kwargs):
                self.executed.append((name, args, kwargs))

            self.monkeypatch.setattr(owner, name, note)

        watch(os, "system")
        watch(gin, "parse_config")
        watch(gin, "parse_config_file")
        watch(gin, "parse_config_files_and_bindings")
        package = self.folder / "path" / "evil_package"
        (package / "inner").mkdir(parents=True)
        (package / "__init__.py").write_text("import os\nos.system('x')\n")
        (package / "inner" / "__init__.py").write_text("")
        (package / "inner" / "x.gin").write_text("")
        self.monkeypatch.syspath_prepend(str(self.folder / "path"))

    def assert_refused(self, pattern, files=(), params=()):
        with self.assertRaisesRegex(InputError, pattern) as context:
            configuration.parse(files, params)
        self.assertEqual(self.executed, [])
        self.assertNotIn("evil_package", sys.modules)
        self.assertEqual(gin.config_str().strip(), "")
        return str(context.exception)

    @parameterized.named_parameters(
        ("other_module", "import os"),
        ("package_on_the_path", "import evil_package"),
        ("module_in_package", "import evil_package.inner"),
        ("from_package", "from evil_package import inner"),
        ("alias", "import evil_package as robust_tf"),
        ("keras_source", "import keras.src"),
        ("keras_source_from", "from keras import src"),
        ("keras_source_deep", "import keras.src.utils.file_utils"),
        ("keras_source_alias", "from keras.src.utils import file_utils as f"),
        ("keras_models", "import keras.models"),
        ("keras_config", "from keras import config"),
        ("keras_backend", "import keras._tf_keras"),
        ("our_writer", "from robust_tf import files"),
        ("our_parser", "from robust_tf.experiments import configuration"),
        ("our_tables", "from robust_tf.experiments import configurables"),
        ("our_values", "from robust_tf.experiments import gin_values"),
        ("our_runner", "import robust_tf.experiments.command_line as c"),
        ("our_programs", "import robust_tf.bin.train"),
        ("imported_into_ours", "from robust_tf.regions import tf"),
        ("class_of_ours", "from robust_tf.regions import LpBall"),
        ("gin_reader", "import gin.resource_reader"),
        ("gin_utils", "from gin import utils"),
        ("gin_feature", "import __gin__.dynamic_registration"),
        ("unknown_feature", "from __gin__ import evil_package"),
    )
    def test_imports(self, statement):
        for dynamic in (True, False):
            path = self.write(f"{statement}\n", dynamic=dynamic)
            message = self.assert_refused("may not import|unknown to gin", [path])
            self.assertIn(f"{path}, line {2 if dynamic else 1}: ", message)
            self.assert_refused("may not import|unknown to gin", params=[statement])

    @parameterized.named_parameters(
        ("keras_source", "import keras", "keras.src.utils.file_utils.os.system"),
        ("keras_callback", "import keras", "keras.callbacks.LambdaCallback"),
        ("keras_checkpoint", "import keras", "keras.callbacks.ModelCheckpoint"),
        ("keras_remote", "import keras", "keras.callbacks.RemoteMonitor"),
        ("keras_lambda", "import keras", "keras.layers.Lambda"),
        ("keras_loader", "import keras", "keras.models.load_model"),
        ("keras_download", "import keras", "keras.utils.get_file"),
        ("keras_getter", "import keras.initializers", "keras.initializers.get"),
        ("keras_shown_as_ours", "import keras as robust_tf", "robust_tf.src.os.system"),
        ("ours_shown_as_keras", "from robust_tf import regions as keras", "keras.np"),
        ("renamed", "from keras import optimizers as o", "o.deserialize"),
        ("numpy_of_ours", "from robust_tf import regions", "regions.np.load"),
        ("tf_of_ours", "import robust_tf.regions", "robust_tf.regions.tf.io.read_file"),
        ("abc_of_ours", "from robust_tf import regions", "regions.abc.sys.modules"),
        ("foreign_class", "from robust_tf import regions", "regions.Callable"),
        ("method", "from robust_tf import regions", "regions.LpBall.map"),
        ("init", "from robust_tf import regions", "regions.LpBall.__init__"),
        (
            "globals",
            "from robust_tf import regions",
            "regions.box_minimum.__globals__.get",
        ),
        ("private", "from robust_tf import regions", "regions._dual_norm"),
        ("builtins", "from robust_tf import regions", "regions.__builtins__.eval"),
        ("loader", "from robust_tf import regions", "regions.__loader__.exec_module"),
        ("error_class", "from robust_tf import regions", "regions.InputError"),
        ("our_parser", "import robust_tf", "robust_tf.experiments.configuration.parse"),
        ("our_writer", "import robust_tf", "robust_tf.files.write_atomically"),
        ("module_itself", "from robust_tf import regions", "regions"),
        ("gin_parser", "", "gin.parse_config"),
        ("gin_config", "", "gin.config.parse_config_file"),
        ("gin_os", "", "gin.config.os.system"),
        ("gin_globals", "", "gin.macro.__globals__"),
        ("gin_module", "from gin import config", "config.os.system"),
        ("gin_alias", "import gin.config as g", "g.external_configurable"),
        ("builtin", "", "eval"),
        ("unimported", "", "os.system"),
    )
    def test_names(self, statement, name):
        uses = (
            f"X = @{name}()",
            f"X = @{name}",
            f"X = [('a', {{'b': @scope/{name}()}})]",
            f"X = @one/gin.singleton()\none/gin.singleton.constructor = @{name}",
            f"{name}.command = {COMMAND}",
            f"scope/{name}.command = {COMMAND}",
            f"{name}:\n  command = {COMMAND}",
        )
        for use in uses:
            for dynamic in (True, False):
                path = self.write(f"{statement}\n{use}\n", dynamic=dynamic)
                message = self.assert_refused("", [path])
                self.assertIn(f"{path}, line ", message)
                self.assert_refused("", params=[f"{statement}\n{use}"])

    def test_messages_say_what_a_name_is_and_what_is_allowed(self):
        head = "import keras\nfrom robust_tf import regions\n"
        for name, found in (
            ("regions.np.load", "`robust_tf.regions.np` .* the module `numpy`"),
            ("regions.Callable", "`Callable` of `collections.abc`"),
            ("keras.utils.get_file", "the module `keras.utils`"),
            ("keras.callbacks.CSVLogger", "`CSVLogger` of `keras.src.callbacks"),
        ):
            path = self.write(f"{head}X = @{name}()\n")
            pattern = f"test.gin, line 4: .*{found}.*Allowed are public classes"
            self.assert_refused(pattern, [path])

    def test_includes(self):
        evil = f"import keras\nkeras.src.os.system.command = {COMMAND}\n"
        beside = self.write(evil, "run/evil.gin")
        above = self.write(evil, "evil.gin")
        for name in ("evil.gin", "../evil.gin", beside, above, "../run/../evil.gin"):
            path = self.write(f"include '{name}'\n", "run/test.gin", dynamic=False)
            message = self.assert_refused("evil.gin, line 3: `keras.src`", [path])
            self.assertIn(f"Included from {path}, line 1", message)
            self.assert_refused("evil.gin, line 3", params=[f"include '{beside}'"])

    def test_names_of_files_are_not_looked_up_as_packages(self):
        name = "evil_package/inner/x.gin"
        self.assert_refused("no gin file", [name])
        self.assert_refused("no gin file", params=[f"include '{name}'"])

    @parameterized.named_parameters(
        ("newline", "N = 1\nimport os"),
        ("continued", "N = \\\n1\nimport os"),
        ("imports_after_dynamic", f"{DYNAMIC}import evil_package"),
        ("block", "robust_tf.regions.np.load:\n  file = 'x'"),
        ("full_name", "keras.src.os.system.command = 'x'"),
        ("call", "X = os.system('x')"),
        ("import_call", "X = __import__('os').system('x')"),
        ("format_string", "X = f'{__import__(\"os\").system(1)}'"),
        ("semicolon", "N = 1; import os"),
        ("conditional", "X = 1 if 2 else 3"),
    )
    def test_params(self, text):
        self.assert_refused("--gin_param", params=[text])
        self.assert_refused("--gin_param", params=["A = 1", text])

    def test_params_are_not_joined(self):
        self.assert_refused("--gin_param", params=["X = [", "]"])

    def test_what_others_registered_with_gin(self):
        gin.external_configurable(os.system, name="third_party_run", module="party")
        self.monkeypatch.setitem(sys.modules, "party", os)
        for name in ("third_party_run", "party.third_party_run"):
            for dynamic in (True, False):
                path = self.write(f"X = @{name}()\n", dynamic=dynamic)
                self.assert_refused("", [path])
            self.assert_refused("Nothing used so far", params=[f"{name}.x = 1"])

    def test_constants_that_others_defined_are_not_seen(self):
        gin.constant("party.SYSTEM", os.system)
        for text in ("X = %party.SYSTEM", "X = %SYSTEM"):
            self.assert_refused("no macro", [self.write(text)])
        for text in ("X = @SYSTEM/gin.constant()", "X = @party.SYSTEM/gin.constant()"):
            self.assert_refused("only constant", [self.write(text)])
        gin.clear_config(clear_constants=True)

    def test_functions_that_merely_claim_to_be_ours(self):
        def claim(command):
            self.executed.append(command)

        claim.__module__ = "robust_tf.regions"
        wrapped = functools.wraps(regions.box_minimum)(lambda *args: claim(args))
        fakes = (claim, wrapped, functools.partial(claim), os.system, type("A", (), {}))
        for fake in fakes:
            self.monkeypatch.setattr(regions, "fake", fake, raising=False)
            text = "from robust_tf import regions\nX = @regions.fake()\n"
            self.assert_refused("not open", [self.write(text)])

    def test_callables_for_functions_of_ours_are_checked_like_all(self):
        def apply(function):
            self.executed.append(function)

        apply.__module__, apply.__qualname__ = "robust_tf.regions", "apply"
        self.monkeypatch.setattr(regions, "apply", apply, raising=False)
        text = "from robust_tf import regions\nX = @regions.apply()\n"
        for name in ("regions.np.load", "os.system", "regions.LpBall.map"):
            path = self.write(f"{text}regions.apply.function = @{name}\n")
            self.assert_refused("", [path])

    def test_attributes_are_not_computed(self):
        self.monkeypatch.setattr(
            regions, "__getattr__", self.executed.append, raising=False
        )
        text = "from robust_tf import regions\nX = @regions.computed()\n"
        self.assert_refused("has no `computed`", [self.write(text)])

    @parameterized.named_parameters(
        ("plain", "X = {'class_name': 'Lambda', 'config': {}}"),
        ("nested", "X = [{'a': ({'class_name': 'function'},)}]"),
        ("joined", "X = {'class' '_name': 'Lambda'}"),
        ("escaped", "X = {'class\\x5fname': 'Lambda'}"),
        ("by_macro", "KEY = 'class_name'\nX = {%KEY: 'Lambda'}"),
        ("by_macro_in_tuple", "KEY = 'class_name'\nX = {(%KEY,): 'Lambda'}"),
        ("by_reference", "X = {@KEY/gin.macro(): 'Lambda'}"),
    )
    def test_serialised_objects(self, text):
        self.assert_refused("serialised object|plain values", [self.write(text)])

    def test_gin_cannot_be_hidden(self):
        for statement in (
            "import keras as gin",
            "from robust_tf import regions as gin",
        ):
            self.assert_refused("hides gin's own", [self.write(statement)])


class ControlTest(ConfigurationTestCase):
    """Gin on its own does run such code: the routes above are real."""

    @parameterized.named_parameters(
        ("keras", "import keras", "keras.src.utils.file_utils.os.system"),
        ("ours", "import robust_tf.regions as r", "r.np.f2py.os.system"),
    )
    def test_gin_calls_what_it_is_told_to(self, statement, name):
        executed = []
        self.monkeypatch.setattr(os, "system", lambda command: executed.append(command))
        gin.parse_config(
            f"{DYNAMIC}{statement}\nfrom robust_tf import regions\n"
            f"{name}.command = {COMMAND}\nregions.LpBall.radius = @{name}()\n"
        )
        with self.assertRaises(ValueError):
            gin.get_configurable(regions.LpBall)(POINT)
        self.assertEqual(executed, ["touch canary"])


class TablesTest(parameterized.TestCase):
    def test_no_keras_class_in_the_table_takes_a_function_or_a_path(self):
        risky = {"filepath", "filename", "log_dir", "backup_dir", "root", "directory"}
        risky |= {
            "on_epoch_end",
            "function",
            "schedule",
            "path",
            "fn",
            "custom_objects",
        }
        for entry in configurables._keras_classes().values():
            names, takes_more = configurables.parameters(entry)
            self.assertEmpty(risky & set(names), entry.path)
            self.assertFalse(takes_more)

    def test_closed_modules_exist(self):
        for name in configurables._CLOSED:
            parts = name.split(".")[1:]
            file = configurables._ROOT.joinpath(*parts).with_suffix(".py")
            self.assertTrue(file.is_file(), name)


class ParseTest(ConfigurationTestCase):
    def test_files_then_params_later_ones_win(self):
        head = "from robust_tf import regions\nregions.LpBall."
        first = self.write(f"{head}radius = 0.1\n", "a.gin")
        second = self.write(f"{head}radius = 0.2\n", "b.gin")
        configuration.parse([first, second], [])
        self.assertAlmostEqual(float(self.ball().radius), 0.2)
        configuration.parse([first, second], ["LpBall.radius = 0.3", "N = 1"])
        self.assertAlmostEqual(float(self.ball().radius), 0.3)

    def test_params_accept_full_names_imports_and_blocks(self):
        configuration.parse([], ["robust_tf.regions.LpBall.radius = 0.1"])
        self.assertAlmostEqual(float(self.ball().radius), 0.1)
        param = "from robust_tf import regions\nregions.LpBall:\n  radius = 0.2"
        configuration.parse(None, [f"{DYNAMIC}{param}", "LpBall.norm = 2"])
        self.assertAlmostEqual(float(self.ball().radius), 0.2)
        self.assertEqual(self.ball().norm, 2.0)

    def test_parsing_again_forgets(self):
        self.parse("from robust_tf import regions\nregions.LpBall.radius = 0.1\n")
        configuration.parse([], [])
        self.assertTrue(gin.config_is_locked())
        with self.assertRaisesRegex(InputError, "radius"):
            self.ball()

    def test_a_failed_parse_leaves_nothing(self):
        self.parse("N = 1\n")
        with self.assertRaises(InputError):
            self.parse("N = 1\nM = %NONE\n")
        self.assertEqual(gin.config_str().strip(), "")
        self.assertFalse(gin.config_is_locked())

    def test_every_kind_of_value_arrives(self):
        text = (
            "from robust_tf import specifications as s\n"
            "s.margin_specification:\n"
            "  labels = [1, -2, (3.5, -1e-3), {'a': (None,), 2: True}, (), [], {}]\n"
            "  num_classes = 'it''s \\n\\'quoted\\' \\u00e9'\n"
            "  dtype = (b'\\x00', %N, @keras.optimizers.SGD)\n"
            "N = -7  # A comment.\n"
        )
        self.parse(f"import keras\n{text}")
        bound = gin.get_bindings(specifications.margin_specification)
        self.assertEqual(
            bound["labels"],
            [1, -2, (3.5, -1e-3), {"a": (None,), 2: True}, (), [], {}],
        )
        self.assertEqual(bound["num_classes"], "its \n'quoted' é")
        self.assertEqual(bound["dtype"][:2], (b"\x00", -7))
        self.assertTrue(issubclass(bound["dtype"][2], keras.optimizers.SGD))

    def test_aliases_of_one_file_mean_nothing_in_another(self):
        self.write("from robust_tf import regions as r\nr.LpBall.norm = 2\n", "a.gin")
        self.parse(
            "from robust_tf import specifications as r\ninclude 'a.gin'\n"
            "import keras as robust_tf\nrobust_tf.optimizers.Adam.beta_1 = 0.5\n"
            "r.margin_specification.num_classes = 3\n"
        )
        self.assertEqual(gin.get_bindings(regions.LpBall), {"norm": 2})
        self.assertEqual(
            gin.get_bindings(specifications.margin_specification), {"num_classes": 3}
        )

    @parameterized.named_parameters(
        # name, text, message
        ("module", "from robust_tf import regoins", "did you mean `robust_tf.regions`"),
        ("name", "import keras\nX = @keras.optimizers.Adm()", "did you mean `Adam`"),
        ("package", "import keras\nX = @keras.optimzers.Adam()", "mean `optimizers`"),
        ("symbol", "import keras\nX = @kera.optimizers.Adam()", "did you mean `keras`"),
        (
            "parameter",
            "from robust_tf import regions\nregions.LpBall.radus = 1",
            "line 3: `robust_tf.regions.LpBall` has no parameter `radus` .*`radius`",
        ),
        (
            "parameter_in_kwargs_of_keras",
            "import keras\nkeras.optimizers.Adam.learning_rte = 1",
            "did you mean `learning_rate`",
        ),
        ("macro", "EPOCHS = 1\nX = %EPOCH", "no macro `%EPOCH`.*mean `EPOCHS`"),
        ("gin", "X = @gin.singelton()", "did you mean `singleton`"),
        ("syntax", "N = 1\nX == 2", "test.gin, line 3: Not gin syntax"),
        ("bracket", "X = (1,\n", "Not gin syntax: .*left open"),
        ("block", "import keras\nkeras.optimizers.Adam:\nN = 1", "line 4: .*indent"),
        ("unhashable", "X = {[]: 1}", "Not a gin value"),
        ("too_large", "X = 1e999", "line 2: A number is too large"),
        ("nested", f"X = {'[' * 5000}", "test.gin.*Not"),
        ("nameless_macro", "gin.macro.value = 1", "needs a name"),
        ("nameless_singleton", "X = @gin.singleton()", "needs a name"),
    )
    def test_mistakes(self, text, message):
        with self.assertRaisesRegex(InputError, message):
            self.parse(text)

    def test_an_ending_must_be_unique(self):
        def margin_specification(labels):
            return labels

        margin_specification.__module__ = "robust_tf.regions"
        margin_specification.__qualname__ = "margin_specification"
        self.monkeypatch.setattr(
            regions, "margin_specification", margin_specification, raising=False
        )
        text = (
            "from robust_tf import regions\nfrom robust_tf import specifications\n"
            "regions.margin_specification.labels = 1\n"
            "specifications.margin_specification.labels = 2\n"
        )
        with self.assertRaisesRegex(InputError, "any of .*regions.*, .*specifications"):
            self.parse(text, "margin_specification.labels = 3")
        self.parse(text, "specifications.margin_specification.labels = 3")
        bound = gin.get_bindings(specifications.margin_specification)
        self.assertEqual(bound, {"labels": 3})

    def test_all_required_values_are_named(self):
        text = (
            "from robust_tf import regions\nEPOCHS = %gin.REQUIRED\n"
            "wide/regions.LpBall.radius = (%REQUIRED, 1)\n"
        )
        pattern = r"(?s)EPOCHS \(.*line 3\).*wide/robust_tf.regions.LpBall.radius \("
        with self.assertRaisesRegex(InputError, pattern):
            self.parse(text)
        self.parse(text, "EPOCHS = 1", "wide/LpBall.radius = 2")


class FilesTest(ConfigurationTestCase):
    def test_a_missing_file_names_where_it_was_searched(self):
        with self.assertRaisesRegex(InputError, f"(?s){self.folder}.*base/none.gin"):
            configuration.parse(["gin_configs/base/none.gin"], [])
        with self.assertRaisesRegex(InputError, "(?s)none.gin.*Included from .*line 2"):
            self.parse("include 'none.gin'\n")

    def test_config_root_of_the_checkout_and_of_the_package(self):
        package = configurables._ROOT
        self.assertEqual(configuration.config_root(), package.parent / "gin_configs")
        self.monkeypatch.setattr(configuration, "_PACKAGE_ROOT", self.folder)
        (self.folder / "gin_configs").mkdir()
        self.assertEqual(configuration.config_root(), self.folder / "gin_configs")

    def test_shipped_files_are_found_from_anywhere(self):
        package = self.folder / "site" / "robust_tf"
        self.monkeypatch.setattr(configuration, "_PACKAGE_ROOT", package)
        inner = "site/robust_tf/gin_configs"
        self.write("N = 1\n", f"{inner}/base/train.gin")
        self.write("include 'gin_configs/base/train.gin'\n", f"{inner}/run/a.gin")
        configuration.parse(["gin_configs/run/a.gin"], ["M = %N"])
        # A shipped file means the shipped one, even beside another of that name.
        self.write("K = 2\n", "gin_configs/base/train.gin")
        configuration.parse(["gin_configs/run/a.gin"], ["M = %N"])
        # A user's own means the user's.
        self.parse("include 'gin_configs/base/train.gin'\nM = %K\n")

    def test_a_file_beside_the_including_one_comes_first(self):
        self.write("N = 1\n", "run/base.gin")
        self.write("K = 1\n", "base.gin")
        path = self.write("include 'base.gin'\nM = %N\n", "run/test.gin")
        configuration.parse([path], [])

    def test_a_file_that_includes_itself(self):
        self.write("include 'b.gin'\n", "a.gin")
        self.write("include 'folder/a.gin'\n", "b.gin")
        (self.folder / "folder").symlink_to(self.folder)
        with self.assertRaisesRegex(InputError, r"includes itself: .*a.gin > .*b.gin"):
            configuration.parse(["a.gin"], [])

    def test_a_file_included_twice(self):
        self.write("N = 1\n", "base.gin")
        self.parse("include 'base.gin'\ninclude 'base.gin'\nM = %N\n")

    def test_a_file_that_is_no_text(self):
        (self.folder / "a.gin").write_bytes(b"\xff\x00")
        with self.assertRaisesRegex(InputError, "a.gin cannot be read"):
            configuration.parse(["a.gin"], [])


class CallTest(ConfigurationTestCase):
    def test_needs_no_mention_in_the_configuration(self):
        configuration.parse([], [])
        box = configuration.call(regions.Box, lower=POINT, upper=POINT)
        self.assertIsInstance(box, regions.Box)

    def test_missing_values_are_bad_input(self):
        self.parse("from robust_tf import regions\nregions.LpBall.norm = 2\n")
        with self.assertRaisesRegex(InputError, "radius.*(?s:.*)--gin_param"):
            self.ball()
        with self.assertRaisesRegex(InputError, r"Required bindings.*\['radius'\]"):
            self.ball(radius=gin.REQUIRED)

    def test_missing_values_of_what_is_made_for_a_call(self):
        self.parse(
            "import keras\nkeras.optimizers.SGD.learning_rate = "
            "@keras.optimizers.schedules.ExponentialDecay()\n"
        )
        with self.assertRaisesRegex(InputError, "decay_rate(?s:.*)ExponentialDecay"):
            configuration.call(keras.optimizers.SGD)

    def test_failures_pass_through(self):
        def fail():
            raise RuntimeError("Required bindings for `x` not provided in config: []")

        def call_wrongly():
            return regions.LpBall(POINT)

        configuration.parse([], [])
        with self.assertRaisesRegex(RuntimeError, "Required bindings"):
            configuration.call(fail)
        with self.assertRaisesRegex(TypeError, "missing 1 required"):
            configuration.call(call_wrongly)

    def test_bad_values_name_the_configurable_and_no_address(self):
        self.parse("from robust_tf import regions\nregions.LpBall.radius = -1.0\n")
        raised = self.assertRaisesRegex(InputError, "at least 0")
        with raised as context, gin.config_scope("wide"):
            self.ball()
        self.assertIn("In 'LpBall' in scope 'wide'", str(context.exception))
        self.assertNotIn("<class", str(context.exception))


class OperativeTest(ConfigurationTestCase):
    TEXT = """
import keras
from robust_tf import regions as r
RATE = 0.25
r.LpBall.radius = %RATE
r.LpBall.valid_range = None
narrow/r.LpBall.radius = 0.125
fast/keras.optimizers.schedules.ExponentialDecay:
    initial_learning_rate = 1e-3
    decay_steps = 10
    decay_rate = 0.5
keras.optimizers.SGD.learning_rate = @fast/keras.optimizers.schedules.ExponentialDecay()
keras.optimizers.LossScaleOptimizer.inner_optimizer = @one/gin.singleton()
one/gin.singleton.constructor = @keras.optimizers.SGD
keras.optimizers.LossScaleOptimizer.name = 'a name long enough to be broken into \
several lines by whoever writes it down'
"""

    def use(self):
        with gin.config_scope("narrow"):
            narrow = self.ball()
        optimizer = configuration.call(keras.optimizers.LossScaleOptimizer)
        rate = optimizer.inner_optimizer.get_config()["learning_rate"]["config"]
        return float(self.ball().radius), float(narrow.radius), rate, optimizer.name

    def test_a_saved_run_repeats(self):
        self.parse(self.TEXT)
        used, written = self.use(), configuration.operative()
        self.assertEqual(used[:2], (0.25, 0.125))
        path = self.write(written, "operative_config.gin", dynamic=False)
        configuration.parse([path], [])
        self.assertEqual(self.use(), used)
        self.assertEqual(configuration.operative(), written)

    def test_it_names_modules_in_full(self):
        self.parse(self.TEXT)
        self.use()
        lines = configuration.operative().splitlines()
        self.assertEqual(lines[0], DYNAMIC.strip())
        self.assertIn("regions.LpBall.radius = %RATE", lines)
        self.assertIn("narrow/regions.LpBall.radius = 0.125", lines)
