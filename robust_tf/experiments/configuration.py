"""Gin configurations that cannot run code of their own.

Gin imports every module and calls every object that a file names. So files and bindings
are first read here, by gin's own parser; each name is looked up among those that are
open (`configurables`), and gin is given nothing but the bindings that came out, under
full names. It never opens the files itself.
"""

import contextlib
import pathlib
import re
import tokenize
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import gin
import gin.config
from gin import config_parser

from robust_tf.errors import InputError
from robust_tf.experiments import configurables
from robust_tf.experiments import gin_values
from robust_tf.experiments.configurables import Configurable

_PACKAGE_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FLAG = "--gin_param"


def parse(gin_files: Sequence[str] | None, gin_params: Sequence[str] | None) -> None:
    """Makes files, then bindings, the configuration; later ones win.

    What was configured before is dropped, also where this fails.

    Args:
        gin_files: names of files; relative ones are searched for in the working
            directory and beside the folder of `config_root`.
        gin_params: bindings, `NAME = value`. Names are written in full, or cut short
            from the left where the files use only one that ends so.

    Raises:
        InputError: for files that are missing or cannot be parsed; for modules,
            classes, functions, parameters and macros that are unknown or not open to
            configurations; and for values left at `%gin.REQUIRED`.
    """
    gin.clear_config()
    try:
        reader = _Reader()
        for name in gin_files or ():
            reader.read_file(name)
        for text in gin_params or ():
            reader.read_param(text)
        gin_values.check_macros(reader.bindings)
        gin_values.check_required(reader.bindings)
        _hand_over(gin_values.render(reader.bindings))
    except BaseException:
        gin.clear_config()
        raise


def operative() -> str:
    """Returns every value used so far, as a file that `parse` accepts."""
    return gin.operative_config_str()


def is_bound(parameter: str) -> bool:
    """Whether the configuration binds a parameter, given by its full name."""
    try:
        gin.query_parameter(parameter)
    except ValueError:
        return False
    return True


def call(configurable: Callable, /, **kwargs):
    """Returns `configurable(**kwargs)`, the configuration filling in what is missing.

    Raises:
        InputError: where neither `kwargs` nor the configuration holds a value that
            is required, here or in what the configuration has made for this call.
    """
    try:
        return _configured(configurable)(**kwargs)
    except InputError as error:
        raise InputError(_without_addresses(str(error))) from error
    except (RuntimeError, TypeError) as error:
        if not _is_missing_binding(error):
            raise
        raise InputError(
            f"{_without_addresses(str(error))}. Set it in a gin file, or with "
            f"`{_FLAG}='NAME = value'`."
        ) from error


def config_root() -> pathlib.Path:
    """Returns the folder `gin_configs`, of the installed package or the checkout."""
    installed = _PACKAGE_ROOT / "gin_configs"
    if installed.is_dir():
        return installed
    return _PACKAGE_ROOT.parent / "gin_configs"


class _Source:
    """One file or binding that is being read, with the names it has imported."""

    def __init__(self, label: str, path: pathlib.Path | None = None):
        self.label = label
        self.path = path
        self.symbols = {}
        self.is_dynamic = False

    def place(self, line: int) -> str:
        return f"{self.label}, line {line}" if self.path else self.label


class _Reader:
    """Gathers what files and bindings say, each name checked as it is read.

    `bindings` maps (scope, configurable, parameter) to the last value bound there and
    the place that bound it.
    """

    def __init__(self):
        self.bindings = {}
        self._named = {}  # Full name: configurable.
        self._open_files = []
        self._params = _Source(_FLAG)

    def read_file(self, name: str, parent: _Source | None = None) -> None:
        path = _locate(name, parent.path.parent if parent and parent.path else None)
        if path.resolve() in self._open_files:
            chain = " > ".join(str(p) for p in [*self._open_files, path.resolve()])
            raise InputError(
                f"A gin file includes itself: {chain}. Remove one include."
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Gin file {path} cannot be read: {error}") from error
        self._open_files.append(path.resolve())
        self._read(text, _Source(str(path), path))
        self._open_files.pop()

    def read_param(self, text: str) -> None:
        self._params.label = f"{_FLAG}={text!r}"
        self._read(text, self._params)

    def _read(self, text, source):
        for statement in _statements(text, source):
            location = statement.location
            with _placed(source.place(location.line_num)):
                if isinstance(statement, config_parser.ImportStatement):
                    _read_import(statement, source)
                elif isinstance(statement, config_parser.BlockDeclaration):
                    self._resolve(statement.selector, source)
                elif isinstance(statement, config_parser.BindingStatement):
                    self._bind(statement, source)
            if isinstance(statement, config_parser.IncludeStatement):
                self._include(statement, source)

    def _include(self, statement, source):
        place = source.place(statement.location.line_num)
        try:
            self.read_file(statement.filename, parent=source)
        except InputError as error:
            raise InputError(f"{error}\n  Included from {place}") from error

    def _bind(self, statement, source):
        value = gin_values.resolve(
            statement.value, lambda selector: self._resolve(selector, source)
        )
        scope, parameter = statement.scope, statement.arg_name
        if not parameter:
            scope = "/".join(filter(None, (scope, statement.selector)))
            configurable, parameter = configurables.MACRO, "value"
        else:
            configurable = self._resolve(statement.selector, source)
            if configurable == configurables.MACRO and not scope:
                raise InputError("A macro needs a name: write `NAME = value`.")
        known, takes_more = configurables.parameters(configurable)
        if parameter not in known and not takes_more:
            raise InputError(
                f"`{configurable.path}` has no parameter `{parameter}`"
                f"{configurables.nearest(parameter, known)}. It has: "
                f"{', '.join(known) or 'none'}."
            )
        place = source.place(statement.location.line_num)
        self.bindings[scope, configurable, parameter] = (value, place)

    def _resolve(self, selector: str, source: _Source) -> Configurable:
        """Returns what a name in `source` stands for, and remembers it."""
        first, *rest = selector.split(".")
        if first in source.symbols:
            found = configurables.find(source.symbols[first], rest)
        elif first == "gin":
            found = configurables.find("gin", rest)
        elif source.is_dynamic:
            raise InputError(
                f"`{first}` in `{selector}` is not imported"
                f"{configurables.nearest(first, source.symbols)}. Import its module "
                "above, in this file."
            )
        else:
            found = self._by_ending(selector)
        self._named[found.path] = found
        return found

    def _by_ending(self, selector: str) -> Configurable:
        """The one name used so far that ends in `selector`, as in gin's bindings."""
        matches = [path for path in self._named if f".{path}".endswith(f".{selector}")]
        if len(matches) == 1:
            return self._named[matches[0]]
        first, *rest = selector.split(".")
        if not matches and first in ("keras", "robust_tf"):
            return configurables.find(first, rest)
        if matches:
            raise InputError(
                f"`{selector}` can be any of {', '.join(sorted(matches))}. Write more "
                "of the name."
            )
        length = selector.count(".") + 1
        endings = {".".join(path.split(".")[-length:]) for path in self._named}
        raise InputError(
            f"Nothing used so far is called `{selector}`"
            f"{configurables.nearest(selector, endings)}. A file that binds something "
            "new starts with `from __gin__ import dynamic_registration` and imports "
            "its module. Used so far: "
            f"{', '.join(sorted(self._named)) or 'nothing'}."
        )


def _read_import(statement: config_parser.ImportStatement, source: _Source) -> None:
    if statement.module.startswith("__gin__") or statement.module == "__gin__":
        if statement.format() != "from __gin__ import dynamic_registration":
            raise InputError(
                f"`{statement.format()}` is unknown to gin. Only `from __gin__ import "
                "dynamic_registration` is."
            )
        source.is_dynamic = source.path is not None  # Bindings mix with files' names.
        return
    configurables.check_module(statement.module)
    name, module = statement.bound_name(), statement.module
    if not statement.is_from and not statement.alias:
        module = name  # `import a.b` binds `a`.
    if name == "gin" and module != "gin":
        raise InputError(f"`{statement.format()}` hides gin's own names. Use `as`.")
    source.symbols[name] = module


def _statements(text: str, source: _Source) -> Iterator:
    """Yields the statements that gin's parser finds in `text`."""
    try:
        yield from config_parser.ConfigParser(text, gin_values.Recorder())
    except SyntaxError as error:
        shown = f"\n    {error.text.strip()[:80]}" if error.text else ""
        place = source.place(error.lineno or 1)
        raise InputError(f"{place}: Not gin syntax: {error.msg}{shown}") from error
    except tokenize.TokenError as error:
        message, (line, _) = error.args
        raise InputError(
            f"{source.place(line)}: Not gin syntax: {message}. Is a bracket or quote "
            "left open?"
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{source.label}: Not a gin value: {error}") from error


def _locate(name: str, beside: pathlib.Path | None) -> pathlib.Path:
    """Returns the path of a gin file; `beside` is the including file's folder."""
    shipped = config_root().parent
    places = [pathlib.Path.cwd(), shipped]
    if beside is not None:
        # A shipped file means the shipped ones, wherever it is run from.
        is_shipped = beside.resolve().is_relative_to(config_root())
        places = [beside, *(reversed(places) if is_shipped else places)]
    paths = [place / name for place in places]
    for path in paths:
        if path.is_file():
            return path
    searched = dict.fromkeys(str(path) for path in paths)
    raise InputError(f"There is no gin file `{name}`. Searched: {', '.join(searched)}.")


@contextlib.contextmanager
def _placed(place: str):
    """Puts the place before the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _hand_over(text: str) -> None:
    """Gives gin the checked configuration."""
    try:
        gin.parse_config(text)
        gin.finalize()
    except Exception as error:
        raise InputError(f"Gin refuses the configuration: {error}") from error


def _configured(configurable):
    """The version of a class or function that takes its values from gin."""
    try:
        return gin.get_configurable(configurable)
    except ValueError:  # No configuration in this process has named it.
        with gin.unlock_config():
            return gin.external_configurable(configurable)


def _is_missing_binding(error: Exception) -> bool:
    """Whether gin, and nothing that it called, found a value missing."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames[-1].f_code.co_filename != gin.config.__file__:
        return False
    return bool(re.match(r"Required bindings for|.* missing \d+ required", str(error)))


def _without_addresses(message: str) -> str:
    """Shortens gin's `In call to configurable 'f' (<function f at 0x...>)`."""
    pattern = r"\n  In call to configurable ('[\w.]+') \(<.*?>\)( in scope '[^']*')?"
    return re.sub(pattern, r"\n  In \1\2", message)
