"""Errors for callers to catch. Each message is one sentence that names the cause and the remedy."""

import os

MAX_REASON = 400


class FileError(ValueError):
    """A file cannot be read.

    Args:
        path: of the file.
        reason: the rest of the sentence: "does not exist", "is larger than 16 MB". What is longer
            than `MAX_REASON` characters, because of a name in the file, is cut off.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.reason = reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…"
        name = os.fspath(path).encode("utf-8", "backslashreplace").decode()
        super().__init__(f"{name} {self.reason}")


class SaveError(OSError):
    """A file or folder cannot be written; the message says why, and the old content remains."""

    def __str__(self) -> str:
        return str(self.strerror)


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written; the message names the file."""


class DeviceError(ValueError):
    """A torch device is not there; the message names it."""


class BackboneError(ValueError):
    """A backbone cannot be built; the message names it."""


class DownloadError(ValueError):
    """A model or dataset cannot be downloaded; what was there before is unchanged."""


class PhotoError(ValueError):
    """A photo cannot be used; the message names it."""


class PlaceError(ValueError):
    """A place is not known, or its name fits several places.

    Attributes:
        suggestions: Names that are unique, the most likely first.
    """

    def __init__(self, message: str, suggestions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.suggestions = suggestions


class HintError(ValueError):
    """What is said to be known about a photo is not understood, or cannot be used."""


class DatasetError(ValueError):
    """A dataset cannot be read; the message names file, column and row."""


class TrainingError(ValueError):
    """These photos and options cannot be trained with; the message says what to change."""


def is_plain(error: BaseException) -> bool:
    """Return whether an error's message alone tells the user what to do.

    This holds for the errors of this package, of files and disks, and of memory that ran out. Any
    other error is a fault of the program, and its traceback belongs in a log.
    """
    if isinstance(error, OSError | MemoryError) or "out of memory" in str(error).lower():
        return True
    return isinstance(error, ValueError) and type(error).__module__.startswith("geoclip_core.")


def sentence(error: BaseException) -> str:
    """Return an error's text; that of the system, with its number, as "FILE: permission denied"."""
    if isinstance(error, SaveError) or not isinstance(error, OSError):
        return str(error)
    if error.filename is None or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text (300 characters), or its type if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
