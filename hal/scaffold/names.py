"""Which names a new backend can have, and where its folder can go. Every refusal says what to do instead."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from hal import registry
from hal.errors import OptionError

OWN = ("cpu", "opencl", "cuda", "ptx")  # hal's, installed or not


def check_name(name: str) -> None:
    """Raises OptionError for a name that cannot be a device prefix, part of a module's name, and one's own."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        better = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").lstrip("0123456789_")
        raise OptionError(
            f"NAME {name!r} cannot begin a device's name and be part of a module's: lower-case letters, digits and _, "
            "a letter first, no word of Python's; for example " + (better if better and better != name else "acme")
        )
    if name in OWN:
        raise OptionError(f"NAME {name!r} is a backend of hal's own; choose another, such as the chip's name")
    if name in registry.backends():
        raise OptionError(
            f"NAME {name!r} is taken by an installed backend; choose another, or uninstall the package that has it "
            "(hal devices lists them)"
        )
    if importlib.util.find_spec(f"hal_{name}") is not None:
        raise OptionError(f"NAME {name!r}: a module hal_{name} is installed already; choose another name")


def check_folder(parent: Path, folder: Path) -> None:
    """Raises OptionError unless `folder` can be made new in `parent`."""
    if not parent.is_dir():
        raise OptionError(f"--dir {parent} is no folder; make it first")
    if folder.exists() or folder.is_symlink():
        raise OptionError(f"{folder} is there already, and nothing is overwritten; remove it or name another --dir")
