"""Files and folders that a command line names: errors that say which option, which path, and why not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hal.errors import OptionError


@contextmanager
def naming(option: str, path: Path, what: str = "cannot be written") -> Iterator[None]:
    """An OSError in the block becomes an OptionError with the option and its path."""
    try:
        yield
    except BrokenPipeError:  # of the reader of `| head`, and not of the path
        raise
    except FileExistsError as error:
        raise OptionError(
            f"{option} {path}: {error.filename or path} is there and is no folder; name another"
        ) from error
    except OSError as error:
        raise OptionError(f"{option} {path} {what}: {error.strerror or error}") from error


def check_file(option: str, path: Path) -> None:
    """Raises OptionError unless a file can be written there. Leaves what is there as it is, and nothing new."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        return  # a pipe or a device: opening it would be noticed
    with naming(option, path):
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()


def make_folder(option: str, folder: Path) -> None:
    """Make the folder if need be. Raises OptionError unless files can be written there."""
    with naming(option, folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
