"""Compiled kernels on disk, in one folder of hal's own: `<cache>/hal-kernels-v1/`.

`<cache>` is the user's cache folder, or HAL_CACHE_DIR. Rules:

- A file's name is a hash of all that its content depends on, so nothing is ever out of date; only too old.
- What lies here is run as code. The folder is made for its owner alone (0700), and one that others could write to is
  refused: then there is no cache, and a log line says so.
- Written to a temporary file, then renamed: a reader sees all or nothing. Each file carries a checksum; a damaged one
  is dropped and built again. There is no pickle.
- The cache is a convenience: a full disk or a read-only folder costs time, never a call.
- Only files named as hal names them are ever deleted, in this folder only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

FOLDER = "hal-kernels-v1"
LIMIT = 512 << 20  # bytes; beyond it the files that were used least recently go
_MAGIC = b"hal cache 1\n"
_NAME = re.compile(r"[0-9a-f]{64}\.bin(\.[A-Za-z0-9_]+\.tmp)?")
_log = logging.getLogger("hal.cache")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache: its path, its size in bytes, and when it was last used (seconds since the epoch)."""

    path: Path
    size: int
    used: float


def cache_folder() -> Path:
    """Where hal keeps files. Neither made nor looked at."""
    return Path(os.environ.get("HAL_CACHE_DIR") or platformdirs.user_cache_dir()) / FOLDER


def key_of(parts: Iterable[str]) -> str:
    """A file name for something that depends on exactly these texts."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(f"{len(encoded)}:".encode() + encoded)  # the length keeps ("ab", "c") and ("a", "bc") apart
    return digest.hexdigest()


def private_folder(folder: Path) -> bool:
    """Make the folder if need be; False (and one log line) where it cannot be had, or others could write to it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        _log.warning("no cache: %s", error)
        return False
    if os.name == "posix" and not (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    ):
        _log.warning("no cache: %s has to be a folder of this user that nobody else can write to (chmod 700)", folder)
        return False
    return True


class Cache:
    """Bytes by key. Any thread and any process may use it at any time."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.folder = folder or cache_folder()
        self.limit = limit
        self._lock = threading.Lock()
        self._usable: bool | None = None  # looked at on first use
        self._size: int | None = None

    def usable(self) -> bool:
        """Whether the folder is there and safe; looked at once."""
        with self._lock:
            if self._usable is None:
                self._usable = private_folder(self.folder)
            return self._usable

    def get(self, key: str) -> bytes | None:
        """What was put under this key, or None. A damaged file is deleted."""
        if not self.usable():
            return None
        path = self.folder / f"{key}.bin"
        try:
            content = path.read_bytes()
        except OSError:
            return None
        data = content[len(_MAGIC) + 32 :]
        if content[: len(_MAGIC) + 32] != _MAGIC + hashlib.sha256(data).digest():
            _log.info("%s is damaged and is dropped", path)
            self.drop(key)
            return None
        with suppress(OSError):
            os.utime(path)  # the files used least recently go first
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under this key, if that can be done."""
        if not self.usable():
            return
        content = _MAGIC + hashlib.sha256(data).digest() + data
        try:
            handle, temporary = tempfile.mkstemp(".tmp", f"{key}.bin.", self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                os.replace(temporary, self.folder / f"{key}.bin")
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            _log.warning("a compiled kernel was not kept: %s", error)
            return
        self._make_room(len(content))

    def drop(self, key: str) -> None:
        """Forget one key."""
        with suppress(OSError):
            (self.folder / f"{key}.bin").unlink()

    def entries(self) -> list[Entry]:
        """hal's files in the folder, those used least recently first. Reads the folder each time."""
        found = []
        with suppress(OSError), os.scandir(self.folder) as listing:
            for item in listing:
                with suppress(OSError):
                    if _NAME.fullmatch(item.name) and item.is_file(follow_symlinks=False):
                        status = item.stat(follow_symlinks=False)
                        found.append(Entry(Path(item.path), status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: (entry.used, entry.path))

    def size(self) -> int:
        """Bytes of all entries."""
        return sum(entry.size for entry in self.entries())

    def clear(self) -> int:
        """Delete every entry; how many were deleted. Whatever else lies in the folder stays."""
        return self._delete(self.entries())

    def _make_room(self, added: int) -> None:
        """Delete what was used least recently once the limit is passed, a tenth more than needed."""
        with self._lock:
            self._size = self.size() if self._size is None else self._size + added
            if self._size <= self.limit:
                return
            entries = self.entries()  # other processes write here too
            self._size = sum(entry.size for entry in entries)
            gone = []
            for entry in entries:
                if self._size <= self.limit * 0.9:
                    break
                gone.append(entry)
                self._size -= entry.size
            self._delete(gone)

    def _delete(self, entries: Iterable[Entry]) -> int:
        deleted = 0
        for entry in entries:
            with suppress(OSError):
                entry.path.unlink()
                deleted += 1
        return deleted
