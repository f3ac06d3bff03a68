"""The values in gin files: references resolved, checked, and written out again."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

from gin import config_parser

from robust_tf.errors import InputError
from robust_tf.experiments import configurables
from robust_tf.experiments.configurables import Configurable

# By (scope, configurable, parameter): the value, and the place that bound it.
Bindings = dict[tuple[str, Configurable, str], tuple[object, str]]

_REQUIRED = ("REQUIRED", "gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/name` or `@scope/name()`; the name is a string until it is resolved."""

    scope: str
    name: str | Configurable
    is_evaluated: bool


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%name`, with its scopes."""

    name: str

    @property
    def is_required(self) -> bool:
        """Whether it is the constant that says: to be set."""
        return self.name in _REQUIRED


class Recorder(config_parser.ParserDelegate):
    """Lets gin's parser note references where gin itself would look them up."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        scope, _, name = scoped_configurable_name.rpartition("/")
        return Reference(scope, name, evaluate)

    def macro(self, macro_name):
        return Macro(macro_name)


def resolve(value, find: Callable[[str], Configurable]):
    """Returns the value with each reference's name replaced by what `find` returns.

    Raises:
        InputError: for serialised Keras objects (which can name any class), for keys
            that are known later only (they could spell one), for numbers too large
            for a float, and for misuse of gin's own names.
    """
    if isinstance(value, dict):
        _check_keys(value)
        return {key: resolve(entry, find) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(resolve(entry, find) for entry in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError("A number is too large for a float. Write 'inf' in quotes.")
    if isinstance(value, Reference):
        return _resolve_reference(value, find)
    return value


def _check_keys(value):
    if "class_name" in value:
        raise InputError(
            "A dictionary with the key 'class_name' is a serialised object, which a "
            f"configuration may not hold. Received: {value!r}. Refer to the class with "
            "`@`."
        )
    for key in value:
        if any(isinstance(leaf, Reference | Macro) for leaf in leaves(key)):
            raise InputError(
                f"Keys of dictionaries must be plain values. Received: {key!r}."
            )


def _resolve_reference(reference, find):
    target = find(reference.name)
    if target == configurables.SINGLETON and not reference.scope:
        raise InputError("`@gin.singleton` needs a name: `@NAME/gin.singleton()`.")
    if target not in (configurables.MACRO, configurables.CONSTANT):
        return dataclasses.replace(reference, name=target)
    macro = Macro(reference.scope)
    is_known = target == configurables.MACRO or macro.is_required
    if reference.is_evaluated and reference.scope and is_known:
        return macro
    raise InputError(
        f"`@{reference.scope}/{target.path}` cannot be used so. Write `%NAME` for the "
        "value of a macro; the only constant is `%gin.REQUIRED`."
    )


def leaves(value) -> Iterator:
    """Yields what a value holds, however deep, without containers and keys."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from leaves(entry)
    else:
        yield value


def check_macros(bindings: Bindings) -> None:
    """Raises an `InputError` for a macro that is used, but bound nowhere."""
    bound = {scope for scope, target, _ in bindings if target == configurables.MACRO}
    for value, place in bindings.values():
        for leaf in leaves(value):
            if not isinstance(leaf, Macro) or leaf.is_required:
                continue
            parts = leaf.name.split("/")
            # A macro within a scope falls back on the one that bears the scope's name.
            if not {"/".join(parts[: i + 1]) for i in range(len(parts))} & bound:
                raise InputError(
                    f"{place}: There is no macro `%{leaf.name}`"
                    f"{configurables.nearest(leaf.name, bound)}. Bind it: "
                    f"`{leaf.name} = value`."
                )


def check_required(bindings: Bindings) -> None:
    """Raises one `InputError` for all values that are left at `%gin.REQUIRED`."""
    unset = [
        f"  {_key(*key)} ({place})"
        for key, (value, place) in bindings.items()
        if any(isinstance(leaf, Macro) and leaf.is_required for leaf in leaves(value))
    ]
    if unset:
        raise InputError(
            "The configuration leaves required values unset:\n"
            + "\n".join(unset)
            + "\nSet them in a gin file, or with `--gin_param='NAME = value'`."
        )


def render(bindings: Bindings) -> str:
    """Returns the bindings as gin statements that import and name all in full."""
    named = {target for _, target, _ in bindings}
    for value, _ in bindings.values():
        references = (leaf for leaf in leaves(value) if isinstance(leaf, Reference))
        named |= {reference.name for reference in references}
    imports, names = _imports(target.module for target in named)
    lines = ["from __gin__ import dynamic_registration", *imports]
    for (scope, target, parameter), (value, _) in bindings.items():
        if target == configurables.MACRO:
            key = scope
        else:
            key = f"{_scoped(scope, target, names)}.{parameter}"
        lines.append(f"{key} = {_literal(value, names)}")
    return "\n".join(lines) + "\n"


def _imports(modules: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The import statements, and the name under which each module is then known."""
    statements, names = [], {"gin": "gin"}
    for module in sorted(set(modules) - {"gin"}):
        package, _, name = module.rpartition(".")
        if not package:
            statements.append(f"import {module}")
        elif name in {*names.values(), "gin", "keras"}:
            name = module.replace(".", "_")
            statements.append(f"import {module} as {name}")
        else:
            statements.append(f"from {package} import {name}")
        names[module] = name
    return statements, names


def _literal(value, names) -> str:
    """The value as gin reads it."""
    if isinstance(value, dict):
        items = (
            f"{_literal(k, names)}: {_literal(v, names)}" for k, v in value.items()
        )
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_literal(entry, names) for entry in value)}]"
    if isinstance(value, tuple):
        return f"({''.join(_literal(entry, names) + ', ' for entry in value)})"
    if isinstance(value, Macro):
        # Not `%name`: that could be a constant that another library has defined.
        return f"@{_scoped(value.name, configurables.MACRO, names)}()"
    if isinstance(value, Reference):
        brackets = "()" if value.is_evaluated else ""
        return f"@{_scoped(value.scope, value.name, names)}{brackets}"
    return repr(value)


def _scoped(scope, target, names) -> str:
    return f"{scope}{'/' if scope else ''}{names[target.module]}.{target.name}"


def _key(scope, target, parameter) -> str:
    """A binding's left side, as a user would write it."""
    if target == configurables.MACRO:
        return scope
    return f"{scope}{'/' if scope else ''}{target.path}.{parameter}"
