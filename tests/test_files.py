"""Atomic files and folders, and safe names."""

import contextlib
import errno
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoclip_core.errors import FileError, SaveError
from geoclip_core.files import (
    MAX_DEPTH,
    MAX_YAML,
    atomic_file,
    atomic_folder,
    check_file,
    open_file,
    parse_json,
    read_bytes,
    read_end,
    read_json,
    read_text,
    read_yaml,
    remember_opened,
    restore,
    safe_name,
    swap_in,
    was_opened,
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


READERS = {
    "read_bytes": lambda path: read_bytes(path, 100),
    "check_file": lambda path: check_file(path, 100),
    "read_text": lambda path: read_text(path, 100),
    "read_json": lambda path: read_json(path, 100),
    "read_yaml": read_yaml,
    "read_end": lambda path: read_end(path, 100),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "socket", "folder", "absent", "circle"])
def test_only_regular_files_are_read(tmp_path, name, kind):
    path = tmp_path / "file.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        bind_socket(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path)
    with pytest.raises(FileError, match=r"^/\S+ (is|does|cannot) "):
        READERS[name](path)


def bind_socket(path):
    # relative, as the path of a socket has at most 107 characters
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


@pytest.mark.parametrize("name", [name for name in READERS if name != "read_end"])
def test_a_larger_file_is_refused_before_it_is_read(tmp_path, name):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no space on the disk
    with pytest.raises(FileError, match="is larger than"):
        READERS[name](path)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * 10)
    with open_file(path, 10) as stream:
        path.write_bytes(b"x" * 20)
        assert len(stream.read(11)) == 11


def test_a_name_that_no_file_can_have_is_refused():
    for path in ("a\0b", "x" * 5000, "", "\udcff"):
        with pytest.raises(FileError):
            read_bytes(path, 10)


def test_the_end_of_a_long_log_is_read(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(2**40)
        file.seek(2**40)
        file.write(b"last words")
    assert read_end(path, 10) == b"last words"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested deeper"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "nested deeper"),
        ("[" * (MAX_DEPTH + 1) + "1" + "]" * (MAX_DEPTH + 1), "nested deeper"),
        ("9" * 5000, "not JSON"),
        ('{"name": "\\ud800"}', "half a character"),
        ('{"\\ud800": 1}', "half a character"),
        ("{", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_text_that_is_no_plain_json_is_refused(text, reason):
    with pytest.raises(FileError, match=rf"^a\.json .*{reason}"):
        parse_json(text, "a.json")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 30_000,
        "a: &a [*a]",
        "&a {*a : 1}",
        "a: 2001-99-99",
        "a: !!python/object/apply:os.getcwd []",
        "!!timestamp x",
        "!!int x",
        "!!binary é",
        "\x00",
        "a: [",
        "x" * (MAX_YAML + 1),
        # each line has ten times the values of the line before
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10}]\n" for i in range(1, 12)),
    ],
)
def test_yaml_that_is_no_plain_tree_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=r"^\S+config\.yaml "):
        read_yaml(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_read_as_it_was_written(value):
    assert parse_json(json.dumps(value), "a.json") == value


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_give_a_value_or_a_file_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    for reader in (read_json, read_yaml):
        with contextlib.suppress(FileError):
            reader(path)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


class OtherLibrariesError(Exception):
    """As safetensors reports what the system says."""


def test_a_full_disk_is_one_sentence_and_the_old_file_remains(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded", str(path)),
        OtherLibrariesError("Error while serializing: No space left on device (os error 28)"),
    ):
        with (
            pytest.raises(SaveError, match=rf"^{path} cannot be written: the disk of \S+ is full"),
            atomic_file(path),
        ):
            raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_leaves_the_old_folder(tmp_path):
    with atomic_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("old")
    with (
        pytest.raises(SaveError, match=r"the disk of .* is full: make room"),
        atomic_folder(tmp_path / "set") as folder,
    ):
        full_disk()
    assert (tmp_path / "set" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["set"]


def test_a_vanished_folder_is_named(tmp_path):
    (tmp_path / "gone").mkdir()

    def write():
        with atomic_file(tmp_path / "gone" / "a") as unfinished:
            (tmp_path / "gone").rmdir()
            unfinished.write_text("x")

    with pytest.raises(SaveError, match=r"the folder .*gone does not exist any more"):
        write()


def test_an_error_about_another_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a"):
        Path("/nowhere/source").read_bytes()
    with pytest.raises(OtherLibrariesError, match="own"), atomic_file(tmp_path / "a"):
        raise OtherLibrariesError("its own")


def test_folders_of_opened_datasets_are_known(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCLIP_CACHE", str(tmp_path / "cache"))
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine / "deep", other):
        folder.mkdir(parents=True)
    assert not was_opened(mine)
    remember_opened(mine)
    remember_opened(mine)
    (mine / "link").symlink_to(other)
    assert was_opened(mine)
    assert was_opened(mine / "deep")
    for folder in (other, tmp_path, mine / "link", mine / ".." / "other", "/", "", "~nobody", "\0"):
        assert not was_opened(folder), folder
    for text in ("{", "[1, null]", '["relative"]', '{"a": 1}', "[" * 1000):
        (tmp_path / "cache" / "opened-datasets.json").write_text(text)
        assert not was_opened(mine)
