"""Fetching one file over HTTP: with progress, going on where it broke off, and checked.

A file lies as `NAME.part` until its length and its checksum are right, and only then gets its name,
so that a name that exists is a whole file.
"""

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geoclip_core.hub.placement import (
    DownloadError,
    check_space,
    readable,
    safe_path,
    sha256_of,
)

Progress = Callable[[str, int, int | None], None]
"""Called with (what is fetched, bytes so far, bytes in all or None)."""

CHUNK = 1 << 18
TRIES = 4
"""Connections that may break without a single new byte before we give up."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched."""

    name: str
    """Path inside its repository, with forward slashes."""
    url: str
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    """SHA-1 of git's blob, which is what hubs know of small files."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """For this host only: they are not sent on when it redirects."""


def fetch(
    file: RemoteFile, folder: Path, progress: Progress | None = None, timeout: float = 30.0
) -> Path:
    """Fetch a file into a folder and return its path; one that is there and right is kept.

    Args:
        file: what to fetch.
        folder: where to; subfolders of the name are made.
        progress: told about every chunk.
        timeout: seconds without a byte after which a connection counts as broken.

    Raises:
        DownloadError: no network, no such file, no space, or a wrong checksum.
    """
    target = safe_path(folder, file.name)
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and _is_right(target, file):
        return target
    for attempt in (1, 2):
        resumed = part.exists() and part.stat().st_size > 0
        _receive(file, part, progress, timeout)
        if _is_right(part, file):
            os.replace(part, target)
            return target
        part.unlink()
        # A part left by an earlier version of the file spoils what is added to it: once more from
        # the start. A fresh download that is wrong stays wrong.
        if not resumed or attempt == 2:
            break
    raise DownloadError(
        f"{file.name} arrived with a wrong checksum and was thrown away: try again later, and if "
        "it happens again do not trust this source"
    )


def read_small(url: str, headers: Mapping[str, str], what: str, timeout: float = 30.0) -> bytes:
    """The answer of a URL, 20 MB at most, such as the listing of a repository.

    Raises:
        DownloadError: as `fetch`; the message names `what`.
    """
    last: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(0.3 * 2**attempt, 5.0))
        try:
            with _open(url, headers, timeout) as answer:
                return answer.read(20_000_000)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise DownloadError(_refusal(error, what)) from error
            last = error
        except (OSError, http.client.HTTPException) as error:
            last = error
            if _is_unreachable(error):
                break
    raise DownloadError(_no_network(what, last)) from last


def _receive(file: RemoteFile, part: Path, progress: Progress | None, timeout: float) -> None:
    """Append to the part until it has all bytes."""
    idle, last = 0, None
    while idle < TRIES:
        before = part.stat().st_size if part.exists() else 0
        if file.size is not None and before == file.size:
            return
        if file.size is not None and before > file.size:
            part.unlink()
            before = 0
        if idle:
            time.sleep(min(0.3 * 2**idle, 5.0))
        try:
            if _append(file, part, before, progress, timeout):
                return
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:
                # The part is longer than the file has become.
                part.unlink()
            elif error.code < 500 and error.code != 429:
                raise DownloadError(_refusal(error, file.name)) from error
            last = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink(missing_ok=True)
                raise DownloadError(
                    f"the disk is full: {file.name} could not be kept. Make room, or choose "
                    "another folder with GEOCLIP_CACHE, and start the download again"
                ) from error
            if isinstance(error, PermissionError | IsADirectoryError):
                raise DownloadError(f"{part} cannot be written: {error.strerror}") from error
            last = error
            if before == 0 and _is_unreachable(error):
                break
        after = part.stat().st_size if part.exists() else 0
        idle = 0 if after > before else idle + 1
    done = part.stat().st_size if part.exists() else 0
    if done:
        of = f" of {readable(file.size)}" if file.size else ""
        raise DownloadError(
            f"the connection broke after {readable(done)}{of} of {file.name}: start the download "
            "again, it goes on from there"
        ) from last
    raise DownloadError(_no_network(file.name, last)) from last


def _append(
    file: RemoteFile, part: Path, start: int, progress: Progress | None, timeout: float
) -> bool:
    """One connection; whether it ended with the last byte."""
    ranged = {"Range": f"bytes={start}-"} if start else {}
    with _open(file.url, file.headers, timeout, ranged) as answer:
        goes_on = answer.status == 206 and _range_start(answer) == start
        if start and not goes_on:
            # The server sends the whole file again, so the part is of no use.
            start = 0
        length = answer.headers.get("Content-Length")
        total = file.size or (start + int(length) if length and length.isdigit() else None)
        if file.size is not None and length and start + int(length) > file.size:
            raise DownloadError(f"{file.name} is larger than announced: it was not kept")
        check_space(part.parent, (total or 0) - start, file.name)
        done = start
        with part.open("ab" if start else "wb") as stream:
            while chunk := answer.read(CHUNK):
                stream.write(chunk)
                done += len(chunk)
                if file.size is not None and done > file.size:
                    raise DownloadError(f"{file.name} is larger than announced: it was not kept")
                if progress is not None:
                    progress(file.name, done, total)
    return total is None or done == total


def _open(
    url: str, headers: Mapping[str, str], timeout: float, plain: Mapping[str, str] | None = None
) -> Any:
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"{url} is no web address")
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **(plain or {})})
    for name, value in headers.items():
        # Not copied when urllib follows a redirect: a token is for the hub, not for its storage.
        request.add_unredirected_header(name, value)
    return urllib.request.urlopen(request, timeout=timeout)


def _range_start(answer: Any) -> int | None:
    """Where a partial answer starts: 100 of "bytes 100-199/200"."""
    first = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else None


def _is_right(path: Path, file: RemoteFile) -> bool:
    if file.size is not None and path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return sha256_of(path) == file.sha256.lower()
    if file.git_blob is not None:
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return blob.hexdigest() == file.git_blob.lower()
    return True


def _is_unreachable(error: Exception) -> bool:
    """Whether there is no way to the host at all, so that waiting would be in vain."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, OSError) and not isinstance(
        reason, TimeoutError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError
    )


def _refusal(error: urllib.error.HTTPError, what: str) -> str:
    if error.code in (401, 403):
        return (
            f"access to {what} is refused: it does not exist, is private, or its licence must be "
            "accepted first (log in with `hf auth login`)"
        )
    if error.code == 404:
        return f"{what} does not exist there"
    return f"the server refuses {what}: {error.code} {error.reason}"


def _no_network(what: str, error: Exception | None) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server of {what} has a problem ({error.code} {error.reason}): try again later"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return (
        f"no network: {what} cannot be reached ({reason}); everything that is already on this "
        "computer goes on working"
    )
