"""What a configuration may name: classes and functions of ours, and some of Keras's.

Gin imports any module and calls any object that a file names. These tables and rules
say which names are open; all others are refused before gin sees them.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import pathlib
import sys
import types
from collections.abc import Iterable

from robust_tf.errors import InputError

_PACKAGE = "robust_tf"
_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Packages and modules of ours that are open. Not among them: whatever writes, reads or
# converts files that its arguments name (`report`, `interchange`), and the programs.
_OPEN = frozenset(
    {
        "architectures",
        "attacks",
        "bounds",
        "data",
        "experiments",
        "layers",
        "objectives",
        "propagation",
        "regions",
        "schedules",
        "smoothing",
        "specifications",
        "training",
        "verification",
    }
)
_CLOSED = frozenset(
    f"{_PACKAGE}.{name}"
    for name in (
        "data.array_records",
        "data.damage",
        "data.matlab_folder",
        "data.soft_targets",
        "data.stored",
        "data.subset",
        "data.tfds_folder",
        "data.tiny_imagenet",
        "experiments.cascade_decisions",
        "experiments.cascade_folder",
        "experiments.certification_records",
        "experiments.certification_summary",
        "experiments.certification_warnings",
        "experiments.command_line",
        "experiments.configurables",
        "experiments.configuration",
        "experiments.gin_values",
        "experiments.launch",
        "experiments.pareto",
        "experiments.region_pictures",
        "experiments.verification_merge",
        "experiments.verification_models",
        "experiments.verification_records",
        "experiments.verification_summary",
    )
)
# No class that calls a given function (`LambdaCallback`, `LearningRateScheduler`), or
# writes, deletes or sends what it is told to (`ModelCheckpoint`, `BackupAndRestore`,
# `CSVLogger`, `OrbaxCheckpoint`, `TensorBoard`, `RemoteMonitor`).
_KERAS_NAMES = {
    "keras.callbacks": (
        "EarlyStopping History ProgbarLogger ReduceLROnPlateau SwapEMAWeights "
        "TerminateOnNaN"
    ),
    "keras.initializers": (
        "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal "
        "LecunUniform Ones Orthogonal RandomNormal RandomUniform TruncatedNormal "
        "VarianceScaling Zeros"
    ),
    "keras.losses": (
        "BinaryCrossentropy BinaryFocalCrossentropy CategoricalCrossentropy "
        "CategoricalFocalCrossentropy CategoricalHinge CosineSimilarity Hinge Huber "
        "KLDivergence LogCosh MeanAbsoluteError MeanSquaredError Poisson "
        "SparseCategoricalCrossentropy SquaredHinge"
    ),
    "keras.optimizers": (
        "Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion "
        "LossScaleOptimizer Nadam RMSprop SGD"
    ),
    "keras.optimizers.schedules": (
        "CosineDecay CosineDecayRestarts ExponentialDecay InverseTimeDecay "
        "PiecewiseConstantDecay PolynomialDecay"
    ),
}
_KERAS_MODULES = frozenset({"keras", *_KERAS_NAMES})
# Gin's own, and their parameters.
_GIN_NAMES = {"macro": ("value",), "constant": (), "singleton": ("constructor",)}
# Gin itself writes the second into operative configurations.
_GIN_MODULES = frozenset({"gin", "gin.config"})
_ALLOWED = (
    "Allowed are public classes and functions that robust_tf itself defines in "
    f"{', '.join(sorted(_OPEN))}, and the classes of {', '.join(sorted(_KERAS_NAMES))} "
    "that run no given code and write no files."
)
_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Configurable:
    """A class or function that a configuration may bind or refer to.

    `target` is the object (None for gin's own), `module` where gin finds it, and `name`
    its dotted name from there.
    """

    module: str
    name: str
    target: object = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def path(self) -> str:
        """The full dotted name."""
        return f"{self.module}.{self.name}"


MACRO, CONSTANT, SINGLETON = (Configurable("gin", name) for name in _GIN_NAMES)


def check_module(name: str) -> None:
    """Imports the module, provided that configurations may import it.

    Raises:
        InputError: for all but open modules of robust_tf and public ones of Keras.
    """
    if not is_open(name):
        known = _own_modules() | _KERAS_MODULES
        raise InputError(
            f"A configuration may not import `{name}`{nearest(name, known)}. Allowed "
            f"are {', '.join(sorted(_KERAS_MODULES))}, and modules (not classes or "
            f"functions) of robust_tf in {', '.join(sorted(_OPEN))}."
        )
    if name not in _GIN_MODULES:
        importlib.import_module(name)


def is_open(module: str) -> bool:
    """Whether configurations may import the module; imports nothing itself."""
    return module in _KERAS_MODULES | _GIN_MODULES or module in _own_modules()


def find(module: str, parts: list[str]) -> Configurable:
    """Returns what `parts` (attributes, outermost first) name, seen from `module`.

    Only modules are looked into, by their dictionaries: no attribute is computed.

    Raises:
        InputError: for unknown names, and for objects that are not open.
    """
    for part in parts[:-1]:
        if not is_open(f"{module}.{part}"):
            _refuse_attribute(module, part)
        module = f"{module}.{part}"
    if module in _GIN_MODULES:
        if parts and parts[-1] in _GIN_NAMES:
            return Configurable("gin", parts[-1])
        raise InputError(
            f"Of gin, only {', '.join(f'gin.{name}' for name in _GIN_NAMES)} can be "
            f"configured{nearest('.'.join(parts), _GIN_NAMES)}."
        )
    found = _admit(_attribute(module, parts[-1])) if parts else None
    if found is None:
        _refuse_attribute(module, *parts[-1:])
    return found


def parameters(configurable: Configurable) -> tuple[list[str], bool]:
    """Returns the names of the parameters, and whether others are accepted too."""
    target = configurable.target
    if target is None:
        return list(_GIN_NAMES[configurable.name]), False
    names, takes_more = [], True
    for function, skipped in _constructors(target):
        given = list(inspect.signature(function).parameters.values())[skipped:]
        named = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        names += [p.name for p in given if p.kind in named and p.name not in names]
        takes_more = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in given)
        if not takes_more:
            break
    # The constructors of Keras hand `**kwargs` up, and refuse what no base knows.
    return names, takes_more and configurable.module != "keras"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean `x`?)`, or nothing where no name is near."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _constructors(target):
    """The functions that take the parameters, and how many arguments each is given."""
    if not isinstance(target, type):
        yield target, 0
        return
    for base in target.__mro__[:-1]:
        for method in ("__init__", "__new__"):  # The order in which gin looks.
            if method in vars(base):
                yield getattr(base, method), 1
                break


@functools.cache
def _own_modules() -> frozenset[str]:
    """The names of the open modules, read from the folder; nothing is imported."""
    names = {_PACKAGE}
    for file in _ROOT.rglob("*.py"):
        parts = file.relative_to(_ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        name = ".".join((_PACKAGE, *parts))
        if parts and parts[0] in _OPEN and name not in _CLOSED:
            names.add(name)
    return frozenset(name for name in names if not _is_private(name))


@functools.cache
def _keras_classes() -> dict[type, Configurable]:
    table = {}
    for module, names in _KERAS_NAMES.items():
        for name in names.split():
            target = getattr(importlib.import_module(module), name)
            path = f"{module}.{name}".removeprefix("keras.")
            table[target] = Configurable("keras", path, target)
    return table


def _attribute(module: str, name: str):
    """The module's own entry of that name, or `_MISSING`."""
    return vars(importlib.import_module(module)).get(name, _MISSING)


def _admit(target) -> Configurable | None:
    """Returns the entry for an object that is open, else None."""
    if not isinstance(target, type | types.FunctionType):
        return None
    if target in _keras_classes():
        return _keras_classes()[target]
    home, name = target.__module__, target.__qualname__
    if home not in _own_modules() or home not in sys.modules or _is_private(name):
        return None
    # The very object, so that no copied `__module__` opens a door.
    if vars(sys.modules[home]).get(name) is not target:
        return None
    return Configurable(home, name, target)


def _is_private(dotted: str) -> bool:
    return any(part.startswith("_") for part in dotted.split("."))


def _refuse_attribute(module: str, part: str = ""):
    """Raises the error for a name that is unknown or not open."""
    if not part:
        raise InputError(
            f"`{module}` is a module, and only classes and functions can be "
            "configured. Name one in it."
        )
    target = _attribute(module, part)
    if target is _MISSING:
        own = vars(importlib.import_module(module))
        known = {name for name, value in own.items() if _admit(value)}
        known |= {
            name.removeprefix(f"{module}.").partition(".")[0]
            for name in _own_modules() | _KERAS_MODULES
            if name.startswith(f"{module}.")
        }
        raise InputError(f"`{module}` has no `{part}`{nearest(part, known)}.")
    raise InputError(
        f"`{module}.{part}` is not open to configurations: it is {_describe(target)}. "
        f"{_ALLOWED}"
    )


def _describe(target) -> str:
    """Returns what an object is and where it was defined."""
    if isinstance(target, types.ModuleType):
        return f"the module `{target.__name__}`"
    if isinstance(target, type | types.FunctionType | types.BuiltinFunctionType):
        return f"`{target.__qualname__}` of `{target.__module__}`"
    return f"an object of type `{type(target).__name__}`"
