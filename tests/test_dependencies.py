"""Imports point one way, and keep to public interfaces; read from the source."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "robust_tf"
# From the top down; names of one rank know nothing of one another.
RANKS = (
    ("bin",),
    ("experiments",),
    ("report", "interchange", "training"),
    ("objectives", "verification", "smoothing"),
    ("attacks",),
    ("propagation",),
    ("architectures", "graph"),
    ("layers", "specifications"),
    ("regions",),
    ("replicas", "rounding"),
    ("bounds",),
    ("matlab",),
    ("files",),
    ("errors",),
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
# These two stand beside the order, and know no more than this of it.
APART = {"schedules": ("errors",), "data": ("errors", "matlab")}
BENEATH = ("errors", "files", "matlab")
PRIVATE = ("keras.src", "tensorflow.python")


def sources():
    """Every source file of the library and its programs, by part."""
    found = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        first = path.relative_to(ROOT / PACKAGE).parts[0]
        found.append((first.removesuffix(".py"), path))
    found += [("bin", path) for path in sorted((ROOT / "bin").glob("*.py"))]
    return found


def imported_names(tree, package=()):
    """Full names of all that a file imports, wherever in the file it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = [*package[: len(package) - node.level + 1], *base]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def parts_of(names):
    """The parts of the library among imported names; "" for the library itself."""
    for name in names:
        top, *rest = name.split(".")
        if top == PACKAGE:
            yield rest[0] if rest else ""
        elif top == "bin":
            yield "bin"


def parse(path):
    return ast.parse(path.read_text(), str(path))


def problem(part, imported):
    """What is wrong with an import, or None."""
    if part == imported:
        return None
    if part in APART:
        return None if imported in APART[part] else f"knows {APART[part]} alone"
    if imported in APART:
        return None if part not in BENEATH else "is beneath what stands apart"
    if imported not in RANK:
        return "imports what stands outside the order"
    return None if RANK[part] < RANK[imported] else "imports upwards or sideways"


SOURCES = sources()
each_source = pytest.mark.parametrize(
    ("part", "path"), SOURCES, ids=[str(path.relative_to(ROOT)) for _, path in SOURCES]
)


@each_source
def test_imports_point_one_way(part, path):
    if part == "__init__":
        return  # The public names, of any part.
    assert part in RANK or part in APART, f"'{part}' stands outside the order"
    package = path.relative_to(ROOT).parts[:-1]
    for imported in parts_of(imported_names(parse(path), package)):
        wrong = problem(part, imported)
        assert wrong is None, f"{part} {wrong}: {imported!r}"


@each_source
def test_public_interfaces_alone(part, path):
    for name in imported_names(parse(path)):
        for private in PRIVATE:
            assert not f"{name}.".startswith(f"{private}."), name
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            for private in (*PRIVATE, "tf.python"):
                assert not f"{dotted}.".startswith(f"{private}."), dotted


@each_source
def test_no_assert_in_the_library(part, path):
    lines = [n.lineno for n in ast.walk(parse(path)) if isinstance(n, ast.Assert)]
    assert lines == []


@each_source
def test_no_flags_and_no_gin_below_experiments(part, path):
    if part in ("bin", "experiments"):
        return
    for name in imported_names(parse(path)):
        assert name.split(".")[0] != "gin", name
        assert not name.startswith("absl.flags"), name


@pytest.mark.parametrize(
    ("part", "line", "is_allowed"),
    [
        ("graph", "from robust_tf.layers.base import BoundLayer", True),
        ("layers", "import robust_tf.graph", False),
        ("layers", "import robust_tf.graph as g", False),
        ("layers", "from robust_tf import graph", False),
        ("layers", "from robust_tf.graph import BoundGraph", False),
        ("layers", "def f():\n  from robust_tf import graph", False),
        ("layers", "from .. import graph", False),
        ("layers", "from robust_tf.specifications import x", False),
        ("layers", "from .base import BoundLayer", True),
        ("bounds", "import robust_tf", False),
        ("data", "from robust_tf import errors", True),
        ("data", "from robust_tf import matlab", True),
        ("data", "from robust_tf import files", False),
        ("data", "from robust_tf import bounds", False),
        ("schedules", "from robust_tf import matlab", False),
        ("matlab", "from robust_tf import files", True),
        ("matlab", "from robust_tf import data", False),
        ("schedules", "import robust_tf.data", False),
        ("training", "from robust_tf import data, schedules", True),
        ("training", "import robust_tf.interchange", False),
        ("experiments", "from robust_tf import files", True),
        ("report", "import bin.train", False),
        ("bin", "from robust_tf.experiments import train", True),
        ("graph", "from robust_tf.unknown import x", False),
    ],
)
def test_the_test_itself(part, line, is_allowed):
    names = imported_names(ast.parse(line), (PACKAGE, part))
    assert all(problem(part, p) is None for p in parts_of(names)) == is_allowed
