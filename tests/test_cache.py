"""Compiled kernels on disk: nothing damaged is used, nothing unsafe is trusted, nothing of others is touched."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from hal.cache import FOLDER, Cache, cache_folder, key_of

KEY, OTHER = key_of(["a"]), key_of(["b"])


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / FOLDER)


def test_what_was_put_is_found_also_by_the_next_process(cache: Cache) -> None:
    assert cache.get(KEY) is None
    cache.put(KEY, b"code")
    assert cache.get(KEY) == b"code" == Cache(cache.folder).get(KEY)
    assert cache.get(OTHER) is None


def test_nothing_at_all_can_be_kept(cache: Cache) -> None:
    cache.put(KEY, b"")
    assert cache.get(KEY) == b""


def test_keys_depend_on_each_text_and_on_where_it_ends() -> None:
    assert len({key_of(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], [], [""])}) == 6


def test_the_folder_is_the_users_alone_and_hal_cache_dir_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAL_CACHE_DIR", str(tmp_path))
    cache = Cache()
    cache.put(KEY, b"code")
    assert cache.folder == cache_folder() == tmp_path / FOLDER
    if os.name == "posix":
        assert cache.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b + b"x",
        lambda b: b"",
        lambda b: b[:20],
        lambda b: b[:-1] + b"X",
        lambda b: b"x" + b,
    ],
    ids=["cut", "longer", "empty", "short", "changed", "no header"],
)
def test_a_damaged_entry_is_dropped(cache: Cache, damage: object) -> None:
    assert callable(damage)
    cache.put(KEY, b"some code")
    (entry,) = cache.entries()
    entry.path.write_bytes(damage(entry.path.read_bytes()))
    assert cache.get(KEY) is None
    assert cache.entries() == []
    cache.put(KEY, b"some code")
    assert cache.get(KEY) == b"some code"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_refused_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    folder.chmod(mode)
    cache = Cache(folder)
    with caplog.at_level(logging.WARNING, "hal.cache"):
        cache.put(KEY, b"code")
        assert cache.get(KEY) is None
    assert list(folder.iterdir()) == []
    assert len(caplog.records) == 1 and "chmod 700" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / FOLDER).symlink_to(elsewhere)
    cache = Cache(tmp_path / FOLDER)
    cache.put(KEY, b"code")
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_no_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / FOLDER)
    cache.put(KEY, b"code")
    assert cache.get(KEY) is None
    assert cache.entries() == [] and cache.clear() == 0


def test_clear_deletes_hals_files_only(cache: Cache) -> None:
    cache.put(KEY, b"code")
    cache.put(OTHER, b"more")
    strangers = [cache.folder / name for name in ("notes.txt", f"{KEY}.bin.bak", "abc.bin", ".hidden")]
    for path in strangers:
        path.write_text("mine")
    (cache.folder / "icd").mkdir()
    left_behind = cache.folder / f"{KEY}.bin.k3_x1.tmp"  # by a process that ended in the middle
    left_behind.write_text("half")
    assert cache.clear() == 3
    assert sorted(cache.folder.iterdir()) == sorted([*strangers, cache.folder / "icd"])


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / FOLDER, limit=1000)
    keys = [key_of([str(i)]) for i in range(4)]
    for age, key in enumerate(keys[:3]):
        cache.put(key, bytes(200))
        os.utime(cache.folder / f"{key}.bin", (1000 + age, 1000 + age))
    assert cache.get(keys[0]) is not None  # which makes it the newest
    cache.put(keys[3], bytes(300))
    assert cache.size() <= 1000
    assert cache.get(keys[1]) is None
    assert cache.get(keys[0]) is not None and cache.get(keys[3]) is not None


def test_entries_say_size_and_age(cache: Cache) -> None:
    cache.put(KEY, b"code")
    (entry,) = cache.entries()
    assert entry.path.name == f"{KEY}.bin" and entry.size == cache.size() > 4 and entry.used > 0


def test_many_threads_write_and_read_one_entry(cache: Cache) -> None:
    wrong: list[object] = []

    def work(own: bytes) -> None:
        for _ in range(50):
            cache.put(KEY, own * 1000)
            found = cache.get(KEY)
            if found is None or len(set(found)) != 1 or len(found) != 1000:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(bytes([65 + i]),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [entry.path.name for entry in cache.entries()] == [f"{KEY}.bin"]
