"""Atomic files and folders, and safe names."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from geoclip_core.files import (
    atomic_file,
    atomic_folder,
    restore,
    safe_name,
    swap_in,
    write_atomically,
)


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "set"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("new")
        assert not target.exists()
    assert (target / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_crash_leaves_the_old_folder_unchanged(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "a").write_text("old")

    def build_half():
        with atomic_folder(target) as folder:
            (folder / "a").write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        build_half()
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_interrupted_swap_is_undone(tmp_path):
    old = tmp_path / ".set.old"
    old.mkdir()
    (old / "a").write_text("old")
    restore(tmp_path / "set")
    assert (tmp_path / "set" / "a").read_text() == "old"


def test_the_old_folder_remains_if_the_new_one_cannot_be_moved(tmp_path, monkeypatch):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    real, calls = Path.rename, []

    def break_second(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError("pulled the plug")
        return real(source, target)

    monkeypatch.setattr(Path, "rename", break_second)
    with pytest.raises(OSError, match="plug"):
        swap_in(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "which").read_text() == "old"
    monkeypatch.undo()
    swap_in(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "which").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_link_is_replaced_but_not_its_target(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo.jpg").write_text("mine")
    link = tmp_path / "set"
    link.symlink_to(precious)
    for text in ("one", "two"):
        with atomic_folder(link) as folder:
            (folder / "a").write_text(text)
    assert (link / "a").read_text() == "two"
    assert (precious / "photo.jpg").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "set"]


# No process has this number: Linux stops at 4,194,304.
_DEAD = 99999999


def test_unfinished_folders_of_dead_processes_are_removed(tmp_path):
    (tmp_path / f".set.{_DEAD}-0.part").mkdir()
    (tmp_path / f".other.{_DEAD}-0.part").mkdir()
    with atomic_folder(tmp_path / "set"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".other.{_DEAD}-0.part", "set"]


def test_files_are_replaced_atomically(tmp_path):
    path = tmp_path / "status.json"
    write_atomically(path, "one")
    (tmp_path / f".status.json.{_DEAD}-7.part").write_text("half")
    # a process that lives is writing this one
    other = tmp_path / f".status.json.{os.getppid()}-7.part"
    other.write_text("half")
    write_atomically(path, "two\r\n")
    assert path.read_bytes() == b"two\r\n"
    assert sorted(tmp_path.iterdir()) == sorted([other, path])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "new folder" / "table.csv"
    write_atomically(path, "old")

    def write_half():
        with atomic_file(path) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_threads_may_write_the_same_file(tmp_path):
    path = tmp_path / "status.json"
    texts = [str(number) * 10_000 for number in range(10)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_atomically(path, text), texts * 20))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_new_files_have_the_permissions_of_the_umask(tmp_path):
    mask = os.umask(0o022)
    try:
        write_atomically(tmp_path / "places.csv", "")
        with atomic_folder(tmp_path / "set"):
            pass
    finally:
        os.umask(mask)
    assert (tmp_path / "places.csv").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "set").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("São Tomé", "Sao-Tome"),
        ("  a  b ", "a-b"),
        ("...", ""),
        ("東京", ""),
        ("-rf *", "rf"),
        ("a\0b\nc", "a-b-c"),
        ("x" * 500, "x" * 60),
        ("C:\\Windows", "C-Windows"),
        ("a..b", "a.b"),
    ],
)
def test_safe_names(text, name):
    assert safe_name(text) == name
