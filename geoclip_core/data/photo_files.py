"""The bytes of a photo, wherever they are: a path, an upload, memory; within a limit."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 128 * 2**20

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO


class PhotoError(ValueError):
    """A photo cannot be used; the message says which one and why, in one plain sentence."""


def read_source(source: Source, name: str | None, max_bytes: int) -> tuple[bytes, str]:
    """The bytes of a path, bytes or a binary file, and what to call them in a message.

    Raises:
        PhotoError: if there is nothing to read, or more than ``max_bytes``.
    """
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise PhotoError("The path of the photo is empty.")
        label = printable(name or Path(source).name or str(source))
        content = _file_content(Path(source), label, max_bytes)
    elif isinstance(source, bytes | bytearray | memoryview):
        label, content = printable(name or "photo"), bytes(source)
    elif hasattr(source, "read"):
        label = printable(name or Path(str(getattr(source, "name", "") or "photo")).name)
        content = _stream_content(source, label, max_bytes)
    else:
        raise PhotoError(
            f"A photo is a path, bytes, a binary file or a PIL image, not {type(source).__name__}."
        )
    if not content:
        raise PhotoError(f"{label} is empty.")
    if len(content) > max_bytes:
        raise PhotoError(_too_many_bytes(label, max_bytes))
    return content, label


def _file_content(path: Path, label: str, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PhotoError(f"{label} is a folder, not a photo.")
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError(f"{label} is a device or a pipe, not a photo.")
        if status.st_size > max_bytes:
            raise PhotoError(_too_many_bytes(label, max_bytes))
        with path.open("rb") as stream:
            return stream.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise PhotoError(f"{label} does not exist in {path.absolute().parent}.") from error
    except PermissionError as error:
        raise PhotoError(f"{label} may not be read: permission denied.") from error
    except PhotoError:
        raise
    except OSError as error:
        raise PhotoError(f"{label} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise PhotoError(f"{label} is not a file name: {error}.") from error


def _stream_content(stream: BinaryIO, label: str, max_bytes: int) -> bytes:
    try:
        # An upload that a page has read before is at its end: getvalue() starts over.
        whole = getattr(stream, "getvalue", None)
        content = whole() if whole else stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise PhotoError(f"{label} cannot be read: {error}.") from error
    if not isinstance(content, bytes):
        raise PhotoError(f"{label} was opened as text: open it in binary mode.")
    return content


def printable(name: str) -> str:
    """A file name fit for a message: one line, of a length that leaves room for the sentence."""
    name = "".join(character if character.isprintable() else "?" for character in name)
    return name if len(name) <= 80 else f"{name[:50]}…{name[-25:]}"


def _too_many_bytes(label: str, max_bytes: int) -> str:
    return f"{label} is larger than {max_bytes / 2**20:,.0f} MB, the most that is read."
