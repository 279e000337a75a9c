"""Templates to files: all of a package, or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from hal.errors import OptionError
from hal.scaffold.kinds import KINDS
from hal.scaffold.text import fill, marks

if TYPE_CHECKING:  # it moved here in Python 3.11
    from importlib.resources.abc import Traversable


def write(name: str, kind: str, folder: Path) -> list[Path]:
    """Make `folder`; the files in it. Raises OptionError where it cannot be written, and leaves nothing then."""
    texts = render(name, kind)
    try:
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OptionError(f"--dir {folder.parent} cannot be written: {error.strerror or error}") from error
    try:
        for path, text in texts.items():
            target = building / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")
            if text.startswith("#!"):
                target.chmod(0o755)
        building.chmod(0o777 & ~_umask())
        os.rename(building, folder)  # in one step, and refused where something came in between
    except OSError as error:
        raise OptionError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return [folder / path for path in texts]


def render(name: str, kind: str) -> dict[str, str]:
    """The files of a package: path in it -> text."""
    values = marks(name, kind)
    found = {
        fill(path.removesuffix(".in"), values): template
        for each in KINDS[kind].folders
        for path, template in _templates(files("hal.scaffold").joinpath("templates", each), "")
    }
    for path in KINDS[kind].without:
        del found[fill(path, values)]
    texts = {path: fill(template.read_text(encoding="utf-8"), values) for path, template in sorted(found.items())}
    for path, own in KINDS[kind].copies:
        texts[path] = files("hal").joinpath(own).read_text(encoding="utf-8")
    return texts


def _templates(folder: Traversable, below: str) -> Iterator[tuple[str, Traversable]]:
    """Every file under a folder of templates, and its path there. Works from a zip file, too."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, f"{below}{entry.name.removesuffix('.in')}/")
        else:
            yield below + entry.name, entry


def _umask() -> int:
    """What the user takes away from new folders' rights; mkdtemp takes more."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
