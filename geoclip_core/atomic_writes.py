"""Files and folders that appear whole or not at all.

What is being written lies beside its place as `.NAME.PID-NUMBER.part`. A process that is killed
leaves that behind; the next write of the same file or folder takes it away.
"""

import contextlib
import glob
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from geoclip_core.processes import is_running

# Two threads of one process may write the same file.
_numbers = itertools.count()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file beside its place and rename it when the block ends well.

    Yields the path to write to, on the same disk. Until the block has ended, `path` stays what it
    was; an exception leaves it so. Readers see the old content or the new, never a part.

    Args:
        path: The file to write or replace; its folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file (UTF-8, lines end as they do in `text`) in one step."""
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Build a folder beside its place and swap it in when the block ends well.

    Yields an empty folder on the same disk. Until the block has ended, `target` stays what it was;
    an exception leaves it so. If the machine stops between the two renames of the swap, the next
    call puts the old folder back.

    Args:
        target: The folder to write or replace.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    restore(target)
    unfinished = _unfinished(target)
    unfinished.mkdir()
    try:
        yield unfinished
        swap_in(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def swap_in(finished: Path, target: Path) -> None:
    """Put a finished folder in its place; the one that was there stays until the new one is in.

    Both must be on one disk: the moves are renames.

    Raises:
        OSError: the folder cannot be moved; the old one is in its place again.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    restore(target)
    old = _aside(target)
    if target.exists():
        target.rename(old)
    try:
        finished.rename(target)
    except OSError:
        restore(target)
        raise
    with contextlib.suppress(OSError):  # the new folder is in: what remains of the old may wait
        _discard(old)


def restore(target: Path) -> None:
    """Undo a swap that was cut short: put the old folder back where none is."""
    old = _aside(target.absolute())
    if old.is_dir() and not target.exists():
        old.rename(target)
    elif old.is_dir():
        _discard(old)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def remove_left_overs(path: Path) -> None:
    """Take away what dead processes had begun to write for a file or folder."""
    prefix = f".{path.name}."
    for left_over in path.parent.glob(f"{glob.escape(prefix)}*-*.part"):
        owner = left_over.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not is_running(int(owner)):
            with contextlib.suppress(OSError):
                _discard(left_over)


def _discard(path: Path) -> None:
    """Remove a file, a link (never what it leads to), or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    remove_left_overs(path)
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.part")
