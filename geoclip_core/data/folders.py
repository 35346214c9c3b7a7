"""Writing a folder whole or not at all."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
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
    prefix = f".{target.name}.new-"
    for left_over in target.parent.glob(f"{glob.escape(prefix)}*"):
        owner = left_over.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left_over, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=target.parent))
    # mkdtemp makes folders that only their owner can read.
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o777 & ~mask)
    try:
        yield temporary
        old = _aside(target)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def restore(target: Path) -> None:
    """Undo a swap that was cut short: put the old folder back where none is."""
    old = _aside(target.absolute())
    if old.is_dir() and not target.exists():
        old.rename(target)
    elif old.is_dir():
        shutil.rmtree(old)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step: readers see the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
