"""`hal cache`: where compiled kernels are kept, how much there is, and away with it.

Only what is named as hal names its files is ever deleted, in hal's own folder only (hal/cache.py).
"""

from __future__ import annotations

import argparse
import time

from hal.cache import Cache
from hal.terminal import size, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal cache`."""
    parser.add_argument("action", nargs="?", choices=("show", "clear"), default="show", help="default: show")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where something that should go is still there."""
    cache = Cache()
    before = cache.entries()
    deleted = cache.clear() if args.action == "clear" else 0
    left = cache.entries() if args.action == "clear" else before
    nbytes = sum(entry.size for entry in left)
    freed = sum(entry.size for entry in before) - nbytes
    if args.json:
        document = {"folder": str(cache.folder), "entries": len(left), "size": nbytes, "limit": cache.limit}
        write_json({**document, "deleted": deleted, "freed": freed} if args.action == "clear" else document)
    elif args.action == "clear":
        print(f"{cache.folder}: {files(deleted)} deleted, {size(freed)}")
    else:
        print(f"folder   {cache.folder}{'' if cache.folder.exists() else ' (not made yet)'}")
        print(f"entries  {len(left)}")
        print(f"size     {size(nbytes)} of at most {size(cache.limit)}")
        if left:
            print(f"used     between {moment(left[0].used)} and {moment(left[-1].used)}")
    return 1 if deleted < len(before) and args.action == "clear" and left else 0


def files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
