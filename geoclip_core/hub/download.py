"""Download models to a staging folder, check them there, and put them in place atomically."""

import errno
import functools
import hashlib
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers
from huggingface_hub.utils._http import default_client_factory

from geoclip_core.checks import checked, shown
from geoclip_core.errors import DownloadError, SaveError, first_line
from geoclip_core.files import (
    cache_folders,
    check_space,
    is_offline,
    read_json,
    readable,
    save_error,
    sha256_of,
    swap_in,
)
from geoclip_core.geoclip.weights import extract_tower, read_release
from geoclip_core.hub.catalogue import (
    GEOCLIP,
    TOWER_BYTES,
    Installed,
    Progress,
    catalogue_entry,
    folder_name,
    installed_model,
    write_manifest,
)
from geoclip_core.hub.wheel import REQUIREMENT, convert_wheel, fetch_wheel
from geoclip_core.jobs import JobError, Work, WorkStatus
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.checkpoint import load_checkpoint
from geoclip_core.model.geoclip_image import (
    CLIP_REPOSITORY,
    CONFIG,
    GEOCLIP_IMAGE,
    IMAGE_TOWER,
    build_geoclip_image,
    is_release,
)
from geoclip_core.model.tensors import read_shapes

_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_WANTED = re.compile(
    rf"(image_tower/)?({_WEIGHTS.pattern}|[\w.-]+\.(json|txt|csv|model)"
    r"|(?i:readme\.md|license(\.md)?|notice))"
)
"""Names of the files to download: no pickles, no code, and no path out of the folder."""
MAX_FILES, MAX_DOWNLOAD = 300, 30 * 10**9
"""Files and bytes of the largest model; ViT-bigG has 10 GB."""
MIN_PROGRESS, MAX_BROKEN = 10**6, 60
"""A file may take one request per `MIN_PROGRESS` bytes, and `MAX_BROKEN` more."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository."""

    name: str
    """Path in the repository."""
    size: int
    """Bytes."""
    digest: str
    """Checksum in hexadecimal: SHA-256 of a large file, Git's SHA-1 of a small one."""


@dataclass(frozen=True)
class Repository:
    """One commit of a repository on the hub."""

    name: str
    commit: str
    licence: str | None
    files: tuple[RemoteFile, ...]
    """The files to download."""


def hub_endpoint() -> str:
    """Return the address of the hub, without a trailing slash.

    Raises:
        DownloadError: `HF_ENDPOINT` is neither https nor on this computer.
    """
    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    check_address(address)
    return address


def check_address(address: str) -> None:
    """Accept https, and http on this computer.

    Raises:
        DownloadError: it is another address.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        raise DownloadError(f"{shown(address)} is not an address") from None
    if parts.scheme == "https" or (parts.scheme == "http" and _is_this_computer(host)):
        return
    raise DownloadError(f"{shown(address)} is not an https address: nothing is fetched from it")


def _is_this_computer(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


class _Requests(threading.local):
    """How many requests this thread may still send for the file that it downloads."""

    left: float = math.inf


_requests = _Requests()


@functools.cache
def _refuse_other_addresses() -> None:
    """Let the hub's client of this process follow no redirect to another address than https."""

    def check(request: Any) -> None:
        check_address(str(request.url))
        _requests.left -= 1
        if _requests.left < 0:
            raise DownloadError(
                "the connection broke too often: start the download again later, it continues from "
                "there"
            )

    def client() -> Any:
        made = default_client_factory()
        hooks = made.event_hooks
        made.event_hooks = {**hooks, "request": [*hooks["request"], check]}
        return made

    set_client_factory(client)


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn errors of the hub's client into a `DownloadError` about `what`, a file or model.

    Raises:
        DownloadError: The hub cannot be reached or refuses the request.
    """
    _refuse_other_addresses()
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            message = (
                f"access to {what} is denied: it does not exist, is private, or its licence must "
                "be accepted first (log in with `hf auth login`)"
            )
        elif status == 404:
            message = f"{what} does not exist on the hub"
        elif status == 429 or status >= 500:
            message = f"the server of {what} has a problem (HTTP {status}): try again later"
        else:
            message = f"the hub rejects {what}: {str(error).strip().splitlines()[0]}"
        raise DownloadError(message) from error
    except OfflineModeIsEnabled as error:
        raise DownloadError(f"{what} is not fetched: {first_line(error)}") from error
    except HTTPError as error:
        reason = first_line(error)
        if "CERTIFICATE" in reason or "SSL" in reason:
            message = f"the server of {what} cannot be trusted ({reason})"
        elif any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
            message = (
                f"no network: {what} cannot be reached ({reason}); models on this computer still "
                "work"
            )
        else:
            message = f"the server of {what} sends no usable answer: {reason}"
        raise DownloadError(message) from error


def find_repository(name: str, revision: str | None = None) -> Repository:
    """Return a commit of the model "user/name" on the hub and its files.

    `revision` is a branch, tag or commit; by default the main branch.

    Raises:
        DownloadError: No network, no such repository, or no weights in it that can be loaded.
    """
    try:
        with hub_errors(name):
            info = HfApi(endpoint=hub_endpoint()).model_info(
                name, revision=revision or "main", files_metadata=True
            )
        if info.sha is None or info.siblings is None:
            raise ValueError("it has no commit or no files")
        names = [item.rfilename for item in info.siblings]
        files = tuple(
            _remote_file(item) for item in info.siblings if _WANTED.fullmatch(item.rfilename)
        )
        if len(files) > MAX_FILES or sum(file.size for file in files) > MAX_DOWNLOAD:
            raise ValueError(
                f"it lists {len(files):,} files of {readable(sum(f.size for f in files))}; at most "
                f"{MAX_FILES} files of {readable(MAX_DOWNLOAD)} are downloaded"
            )
        licence = info.card_data.license if info.card_data else None
    except DownloadError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"the hub's answer about {name} cannot be read: {error}") from error
    wanted = {file.name for file in files}
    if "config.json" not in wanted or not any(map(_WEIGHTS.fullmatch, wanted)):
        pickled = any(file.endswith((".bin", ".pt", ".pth")) for file in names)
        raise DownloadError(
            f"{name} has no config.json with safetensors weights"
            + (", only pickled ones, which can run code and are not loaded" if pickled else "")
        )
    return Repository(name, info.sha, str(licence) if licence else None, files)


def _remote_file(item: Any) -> RemoteFile:
    """Return a file of a listing.

    Raises:
        ValueError: The listing lacks its size or checksum.
    """
    digest = item.lfs.sha256 if item.lfs else item.blob_id
    if not isinstance(item.size, int) or not 0 <= item.size <= MAX_DOWNLOAD:
        raise ValueError(f"it announces no usable size of {item.rfilename}: {shown(item.size)}")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}", digest):
        raise ValueError(f"it announces no checksum of {item.rfilename}")
    return RemoteFile(item.rfilename, item.size, digest.lower())


def fetch(
    repository: Repository, file: RemoteFile, folder: Path, progress: Progress | None = None
) -> Path:
    """Download a file of a repository to a folder and return its path; a correct one is kept.

    `huggingface_hub.snapshot_download` would delete an incomplete file and does not check contents.
    Its `http_get` appends to an incomplete file, so that a download of 1.7 GB continues.

    Raises:
        DownloadError: No network, no such file, no disk space, or a wrong checksum.
    """
    target = folder / file.name
    if target.is_file() and _is_correct(target, file):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Named after the content, so that parts of two versions of a file are never joined.
    part = target.with_name(f"{target.name}.{file.digest[:16]}.part")
    while True:
        resumed = part.exists()
        _receive(repository, file, part, progress)
        if _is_correct(part, file):
            return part.replace(target)
        part.unlink()
        if not resumed:  # else the old part may have been damaged: start over once
            raise DownloadError(
                f"{file.name} arrived with a wrong checksum and was deleted: try again later, and "
                "if it happens again do not trust this source"
            )


def _receive(
    repository: Repository, file: RemoteFile, part: Path, progress: Progress | None
) -> None:
    """Append to the part until it is complete, over several connections if needed."""
    url = hf_hub_url(
        repository.name, file.name, revision=repository.commit, endpoint=hub_endpoint()
    )
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    try:
        with hub_errors(file.name), part.open("ab") as stream:
            # the client tries again for as long as a connection brings a byte
            _requests.left = MAX_BROKEN + file.size // MIN_PROGRESS
            try:
                http_get(
                    url,
                    stream,
                    resume_size=stream.tell(),
                    headers=build_hf_headers(),
                    expected_size=file.size,
                    displayed_filename=file.name,
                    tqdm_class=_progress_class(file, progress),
                )
            except HTTPError as error:
                done = stream.tell()
                if isinstance(error, HfHubHTTPError) or not done:
                    raise
                raise DownloadError(
                    f"the connection broke after {readable(done)} of {readable(file.size)} of "
                    f"{file.name}: start the download again to continue from there"
                ) from error
            finally:
                _requests.left = math.inf
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)
            raise DownloadError(
                f"the disk is full: {file.name} could not be stored. Free some space, or choose "
                "another folder with GEOCLIP_CACHE, and start the download again"
            ) from error
        if error.errno is not None:
            raise DownloadError(f"{part} cannot be written: {error.strerror}") from error
        # http_get found a wrong size; the checksum will be wrong too.


def _progress_class(file: RemoteFile, progress: Progress | None) -> type:
    """Return a class that `http_get` uses like a tqdm bar and that calls `progress`."""

    class Bar:
        def __init__(self, *, initial: int = 0, **_: object) -> None:
            self.done = initial

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            self.done += count
            if self.done > file.size:
                raise DownloadError(f"{file.name} is larger than announced and was not kept")
            if progress is not None:
                progress(file.name, self.done, file.size)

    return Bar


def _is_correct(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    if len(file.digest) == 64:
        return sha256_of(path) == file.digest
    blob = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as stream:
        while part := stream.read(2**20):
            blob.update(part)
    return blob.hexdigest() == file.digest


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
    """Download a model, unless it is complete on this computer.

    Args:
        name: A name of the catalogue, or any repository "user/name" on the hub.
        root: Cache folder; by default `GEOCLIP_CACHE` or the platform's.
        offline: Do not use the network, as with `GEOCLIP_OFFLINE` and `HF_HUB_OFFLINE`.
        revision: Branch, tag or commit on the hub.
        wheel: For geoclip: its wheel, downloaded on another computer.
        image_tower: For geoclip: a local folder with CLIP ViT-L/14.
        force: Download again; the old model stays until the new one is complete.
        progress: Called as bytes arrive.

    Raises:
        DownloadError: The download failed. An older model is unchanged, and received bytes are kept
            for the next try unless their checksum is wrong.
    """
    key = folder_name(name)
    folders = cache_folders(root)
    present = installed_model(name, root)
    if present is not None and not force:
        return present
    needs_network = name != GEOCLIP or wheel is None or image_tower is None
    if needs_network and (offline or is_offline()):
        raise DownloadError(f"{name} must be downloaded, but the network is switched off")
    staging = folders.partial / key
    try:
        with _locked(staging):
            if name == GEOCLIP:
                manifest = _fetch_geoclip(staging, wheel, image_tower, revision, progress)
            else:
                manifest = _fetch_repository(name, staging, revision, progress)
            ready = staging / "ready"
            write_manifest(ready, {"name": name, **manifest})
            swap_in(ready, folders.models / key)
            shutil.rmtree(staging, ignore_errors=True)
    except SaveError as error:
        raise DownloadError(str(error)) from error
    except OSError as error:
        raise DownloadError(str(save_error(folders.models / key, error))) from error
    placed = installed_model(name, root)
    if placed is None:
        raise DownloadError(f"{name} was downloaded, but {folders.models / key} is incomplete")
    return placed


def _fetch_repository(
    name: str, staging: Path, revision: str | None, progress: Progress | None
) -> dict[str, Any]:
    repository = find_repository(name, revision)
    arrived = _fetch_files(repository, staging, progress)
    ready = _emptied(staging / "ready")
    for file in repository.files:
        target = ready / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(arrived / file.name, target)
    entry = catalogue_entry(name)
    licence = entry.licence if entry else repository.licence
    source = f"{name} at {repository.commit}"
    return {"kind": _check(ready), "source": source, "licence": licence}


def _fetch_geoclip(
    staging: Path,
    wheel: Path | None,
    image_tower: Path | None,
    revision: str | None,
    progress: Progress | None,
) -> dict[str, Any]:
    if image_tower is None:
        check_space(staging, 2 * TOWER_BYTES, "geoclip with space to unpack it")
    fetched = wheel or fetch_wheel(staging / "wheel", progress)
    ready = _emptied(staging / "ready")
    try:
        convert_wheel(fetched, ready)
    except DownloadError:
        if wheel is None:
            fetched.unlink(missing_ok=True)
        raise
    source = REQUIREMENT
    if image_tower is None:
        repository = find_repository(CLIP_REPOSITORY, revision)
        tower = _fetch_files(repository, staging, progress)
        source += f" with {CLIP_REPOSITORY} at {repository.commit}"
    else:
        tower = image_tower.expanduser()
        source += f" with the image tower of {tower.absolute()}"
    extract_tower(tower, ready / IMAGE_TOWER)  # without the text tower
    return {"kind": _check(ready), "source": source, "licence": "MIT"}


def _fetch_files(repository: Repository, staging: Path, progress: Progress | None) -> Path:
    """Download the files of a repository that have not arrived earlier; return their folder."""
    arrived = staging / "files"
    there = sum(f.stat().st_size for f in arrived.rglob("*") if f.is_file())
    needed = sum(file.size for file in repository.files)
    check_space(staging, needed - there, repository.name)
    for file in repository.files:
        fetch(repository, file, arrived, progress)
    return arrived


def _check(folder: Path) -> str:
    """Return the kind of model in a folder, after loading it.

    Raises:
        DownloadError: It cannot be loaded.
    """
    try:
        if is_release(folder):
            read_release(folder)
            if (folder / IMAGE_TOWER).is_dir():
                build_geoclip_image(BackboneConfig(str(folder), GEOCLIP_IMAGE))
            return "geoclip"
        config = checked(dict[str, Any], read_json(folder / CONFIG), folder / CONFIG)
        if "backbone" in config and "block_widths" in config:
            load_checkpoint(folder, with_backbone=False)
            return "checkpoint"
        for weights in folder.glob("*.safetensors"):
            read_shapes(weights)
    except (OSError, ValueError, TypeError) as error:
        reason = first_line(error)
        message = f"the downloaded model cannot be loaded and was not put in place: {reason}"
        raise DownloadError(message) from error
    return "backbone"


def _link(source: Path, target: Path) -> None:
    """Link or copy a file, so that it is not downloaded again if a later check fails."""
    try:
        target.hardlink_to(source)
    except OSError:  # the file system has no links
        shutil.copyfile(source, target)


@contextmanager
def _locked(staging: Path) -> Iterator[None]:
    """Prevent a second download of the same model at the same time."""
    staging.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(staging.with_name(f"{staging.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise DownloadError("this model is already being downloaded") from error


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def download_job(name: str, root: Path | str | None = None) -> Work:
    """Return the job that downloads a model; it may never have been started."""
    return Work(cache_folders(root).jobs / folder_name(name))


def download_status(name: str) -> WorkStatus | None:
    """Return the status of the last download of a model, or None if there was none."""
    try:
        return download_job(name).status
    except JobError:
        return None


def start_download(name: str) -> None:
    """Start a download in a process that outlives this one, unless one is active.

    Raises:
        OSError: The status cannot be written.
        JobError: The process cannot be started.
    """
    status = download_status(name)
    if status is not None and status.active:
        return
    work = Work.create(download_job(name).folder, {"model": name})
    work.launch("geoclip_core", ["download", name, "--yes"])
