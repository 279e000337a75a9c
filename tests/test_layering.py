"""Imports go one way.

The tables below say for each module of hal what it may import. Imports are read from the source, those inside functions
too; only those under `if TYPE_CHECKING:` are free, since nothing runs there. A new module needs a place in a table.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lowest first; a module imports what stands before it, and itself. Modules of one row do not import each other.
CORE = (
    ("errors", "doubledouble"),
    ("dtypes",),
    ("bound",),
    ("op",),
    ("ops",),
    ("device",),
    ("cache", "configs", "dlpack", "settings", "capi"),
    ("kernel",),
    ("array",),
    ("interop",),
    ("registry",),
    ("calls",),
    ("dispatch",),
    ("api", "planning"),
    ("__init__",),
)
LEVEL = {name: level for level, row in enumerate(CORE) for name in row}

# Above the core: they import the core and each other. The core names none of them.
ABOVE = frozenset(
    (
        *("conformance", "porting", "scaffold", "tune", "torch", "onnx", "jax", "hf", "bench", "demo"),
        *("terminal", "commands", "doctor", "cli", "__main__"),
    )
)

BACKENDS = {
    "hal_cpu_reference": "backends/cpu_reference",
    "hal_opencl": "backends/opencl",
    "hal_nvidia_ptx": "backends/nvidia_ptx",
}
# NVIDIA's tools for kernel authors (load, replace) use hal as a program would; its import costs nobody else anything.
IN_FUNCTIONS = {"hal_nvidia_ptx": frozenset(("conformance", "dispatch", "interop", "__init__"))}
OPEN_TO_BACKENDS = frozenset(("op", "ops", "device", "kernel", "cache", "configs", "errors", "dtypes", "bound"))


class Import(NamedTuple):
    """One module named by an import, and where."""

    module: str
    names: tuple[str, ...]  # of `from module import names`; empty for `import module`
    line: int
    in_function: bool


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(source: str, package: str) -> Iterator[Import]:
    """Every import that can run; relative ones resolved against the package that the file lies in."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while pending:
        node, in_function = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, (), node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield Import(module, tuple(alias.name for alias in node.names), node.lineno, in_function)
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            pending += [(child, in_function) for child in node.orelse]
        else:
            inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            pending += [(child, inside) for child in ast.iter_child_nodes(node)]


def components(found: Import) -> set[str]:
    """The parts of hal that an import names: `hal.ops.x` is `ops`, `from hal import op, matmul` is `op`, `__init__`."""
    first, _, rest = found.module.partition(".")
    if first != "hal":
        return set()
    if rest:
        return {rest.partition(".")[0]}
    known = LEVEL.keys() | ABOVE
    return {name if name in known else "__init__" for name in found.names} or {"__init__"}


def component_of(path: Path, hal: Path) -> str:
    """`hal/ops/matmul.py` belongs to `ops`, `hal/op.py` to `op`."""
    part = path.relative_to(hal).parts[0]
    return part.removesuffix(".py")


def package_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).parent.parts)


def violations_in_hal(root: Path) -> Iterator[str]:
    for path in sorted((root / "hal").rglob("*.py")):
        where = path.relative_to(root).as_posix()
        own = component_of(path, root / "hal")
        if own not in LEVEL and own not in ABOVE:
            yield f"{where}: {own} has no place in the tables of tests/test_layering.py"
            continue
        for found in imports(path.read_text(encoding="utf-8"), package_of(path, root)):
            here = f"{where}:{found.line}: {own} imports"
            if found.module.partition(".")[0] in BACKENDS:
                yield f"{here} the backend {found.module}; backends come through entry points"
            for other in sorted(components(found) - {own}):
                if other not in LEVEL and other not in ABOVE:
                    yield f"{here} hal.{other}, which has no place in the tables"
                elif own in ABOVE or LEVEL.get(other, len(CORE)) < LEVEL[own]:
                    continue
                elif own == "__init__" and found.in_function:
                    continue  # hal.torch and its like are imported on first attribute access
                else:
                    yield f"{here} {other}, which stands above or beside it"


def is_command(path: Path) -> bool:
    """Files of the commands that a backend adds to the program; they print as the program's own do."""
    return path.parent.name == "commands" or "def add_arguments(" in path.read_text(encoding="utf-8")


def violations_in_backends(root: Path) -> Iterator[str]:
    for name, folder in BACKENDS.items():
        for path in sorted((root / folder / name).rglob("*.py")):
            where = path.relative_to(root).as_posix()
            for found in imports(path.read_text(encoding="utf-8"), package_of(path, root / folder)):
                first = found.module.partition(".")[0]
                if first in BACKENDS and first != name:
                    yield f"{where}:{found.line}: {name} imports another backend, {found.module}"
                for other in sorted(components(found) - OPEN_TO_BACKENDS):
                    if found.in_function and other in IN_FUNCTIONS.get(name, ()):
                        continue
                    if other == "terminal" and is_command(path):
                        continue
                    yield f"{where}:{found.line}: {name} imports hal's {other}, which is not open to backends"


def violations(root: Path) -> list[str]:
    return [*violations_in_hal(root), *violations_in_backends(root)]


def test_imports_go_one_way() -> None:
    assert (ROOT / "hal" / "errors.py").exists(), "the test looks at the wrong folder"
    assert violations(ROOT) == []


GOOD = {
    "hal/__init__.py": "from hal.api import matmul\ndef __getattr__(name):\n    import hal.torch\n",
    "hal/errors.py": "import sys",
    "hal/dtypes.py": "import numpy as np\nfrom hal.errors import DTypeError",
    "hal/op.py": "from hal import dtypes\nif TYPE_CHECKING:\n    from hal.array import Array",
    "hal/ops/__init__.py": "from hal.ops.matmul import Matmul",
    "hal/ops/matmul.py": "from hal.op import Op\nfrom hal.ops import rules",
    "hal/kernel.py": "from hal.cache import load\nfrom hal.device import Device",
    "hal/api.py": "import hal.dispatch",
    "hal/cli.py": "import hal\nfrom hal import conformance, doctor",
    "hal/conformance/__init__.py": "from hal import matmul",
    "backends/opencl/hal_opencl/__init__.py": "from hal_opencl.driver import Backend\nfrom .driver import Backend",
    "backends/opencl/hal_opencl/driver.py": "from hal.kernel import KernelDevice\nfrom hal import op",
    "backends/opencl/hal_opencl/commands/dump.py": "from hal.terminal import table",
    "backends/nvidia_ptx/hal_nvidia_ptx/replacement.py": "def judge():\n    from hal.conformance import judge",
}

BAD = {
    "upward": ("hal/op.py", "from hal.device import Device", "op imports device"),
    "in a function": ("hal/op.py", "def f():\n    import hal.kernel", "op imports kernel"),
    "in a class": ("hal/op.py", "class A:\n    import hal.kernel", "op imports kernel"),
    "from the package": ("hal/op.py", "from hal import device", "op imports device"),
    "the public names": ("hal/dispatch.py", "from hal import matmul", "dispatch imports __init__"),
    "relative": ("hal/ops/matmul.py", "from ..kernel import Kernel", "ops imports kernel"),
    "relative to the package": ("hal/op.py", "from . import device", "op imports device"),
    "beside": ("hal/cache.py", "import hal.configs", "cache imports configs"),
    "core on what is above": ("hal/registry.py", "def f():\n    import hal.tune", "registry imports tune"),
    "eagerly": ("hal/__init__.py", "import hal.torch", "__init__ imports torch"),
    "else of TYPE_CHECKING": (
        "hal/op.py",
        "if TYPE_CHECKING:\n    import hal.array\nelse:\n    import hal.kernel",
        "op imports kernel",
    ),
    "a backend by name": (
        "hal/registry.py",
        "import hal_cpu_reference",
        "registry imports the backend hal_cpu_reference",
    ),
    "no place": ("hal/helpers.py", "", "helpers has no place"),
    "of no place": ("hal/op.py", "import hal.helpers", "hal.helpers, which has no place"),
    "backend on the front": (
        "backends/opencl/hal_opencl/driver.py",
        "from hal.array import Array",
        "hal_opencl imports hal's array",
    ),
    "backend on hal itself": (
        "backends/opencl/hal_opencl/driver.py",
        "import hal",
        "hal_opencl imports hal's __init__",
    ),
    "backend on backend": (
        "backends/opencl/hal_opencl/driver.py",
        "def f():\n    from hal_cpu_reference import Backend",
        "hal_opencl imports another backend",
    ),
    "backend on the terminal": (
        "backends/opencl/hal_opencl/driver.py",
        "from hal.terminal import table",
        "hal_opencl imports hal's terminal",
    ),
    "backend on the judge": (
        "backends/nvidia_ptx/hal_nvidia_ptx/replacement.py",
        "import hal.conformance",
        "hal_nvidia_ptx imports hal's conformance",
    ),
}


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


def test_a_good_tree_has_no_violation(tmp_path: Path) -> None:
    write_tree(tmp_path, GOOD)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(("file", "source", "message"), BAD.values(), ids=BAD.keys())
def test_one_bad_import_is_the_one_violation(tmp_path: Path, file: str, source: str, message: str) -> None:
    write_tree(tmp_path, {**GOOD, file: source})
    (found,) = violations(tmp_path)
    assert found.startswith(file) and message in found
