"""Download models to a staging folder, check them there, and put them in place atomically."""

import errno
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import torch
from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers
from huggingface_hub.utils._http import default_client_factory
from safetensors.torch import save_file
from torch import Tensor

from geoclip_core.checks import checked, shown
from geoclip_core.errors import DownloadError, FileError, SaveError, first_line
from geoclip_core.files import (
    cache_folders,
    check_file,
    check_space,
    is_offline,
    read_json,
    readable,
    save_error,
    saving,
    sha256_of,
    swap_in,
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
    write_manifest,
)
from geoclip_core.jobs import JobError, Work, WorkStatus
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
from geoclip_core.model.tensors import read_shapes

Progress = Callable[[str, int, int | None], None]
"""Called with (file or step, bytes so far, all bytes or None)."""

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
MAX_WHEEL = 2 * WHEEL_BYTES
REQUIREMENT = "geoclip==1.3.0"
"""The wheel on PyPI that holds GeoCLIP's weights."""
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
"""File in the wheel -> its published size in bytes and SHA-256."""
_IMAGE, _LOCATION, _SCALE, _GALLERY = MEMBERS


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
    Its `http_get` appends to an incomplete file, so that 1.7 GB need not start over.

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


def fetch_wheel(folder: Path, progress: Progress | None = None) -> Path:
    """Download GeoCLIP's wheel with pip, without dependencies, and return its path.

    Raises:
        DownloadError: pip is missing or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := _wheel_in(folder):
        return found
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError as error:
        raise DownloadError(
            f"this Python has no pip: download the wheel of {REQUIREMENT} on another computer and "
            "name it with --wheel FILE"
        ) from error
    check_space(folder, WHEEL_BYTES, "the geoclip wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += [
        "--retries",
        "2",
        "--timeout",
        "20",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--quiet",
    ]
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if raw := numbers >= (24, 1):
        command.remove("--quiet")
        command += ["--progress-bar", "raw"]
    with tempfile.TemporaryDirectory(prefix="wheel-", dir=folder) as scratch:
        output: list[str] = []
        with subprocess.Popen(
            [*command, "--dest", scratch, REQUIREMENT],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": scratch},  # there pip collects what arrives
        ) as process:
            watch = _SizeWatch(process, Path(scratch))
            watch.start()
            try:
                for line in process.stdout or ():
                    counted = re.fullmatch(r"Progress (\d+) of (\d+)\s*", line) if raw else None
                    if not counted:
                        output.append(line.strip())
                        continue
                    if progress is not None:
                        progress("geoclip wheel", int(counted[1]), int(counted[2]))
            except BaseException:
                process.terminate()
                raise
        watch.join()
        if watch.is_too_large:
            raise DownloadError(
                f"the registry sends more than {readable(MAX_WHEEL)} for {REQUIREMENT}: it was not "
                "kept"
            )
        if process.returncode != 0:
            raise DownloadError(_pip_failure(output))
        wheel = _wheel_in(Path(scratch))
        if wheel is None:
            raise DownloadError(
                f"pip downloaded no wheel of {REQUIREMENT}: {' '.join(output)[-300:]}"
            )
        _check_wheel(wheel)
        return wheel.replace(folder / wheel.name)


class _SizeWatch(threading.Thread):
    """Ends pip when what it has downloaded to a folder exceeds `MAX_WHEEL`.

    pip itself has no limit, and an older one does not say how much has arrived.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        super().__init__(daemon=True)
        self.is_too_large = False
        self._process, self._folder = process, folder

    def run(self) -> None:
        """Look five times a second until the process has ended."""
        while self._process.poll() is None:
            size = 0
            for folder, _, names in os.walk(self._folder):
                for name in names:
                    with suppress(OSError):  # removed in the meantime
                        size += os.lstat(os.path.join(folder, name)).st_size
            if size > MAX_WHEEL:
                self.is_too_large = True
                self._process.kill()
            time.sleep(0.2)


def _check_wheel(wheel: Path) -> None:
    try:
        check_file(wheel, MAX_WHEEL)
    except FileError as error:
        raise DownloadError(str(error)) from error


def convert_wheel(wheel: Path, folder: Path) -> None:
    """Convert GeoCLIP's wheel to config.json, model.safetensors and the gallery in a folder.

    Raises:
        DownloadError: The file is not a wheel, or a file in it is missing or not the published one.
    """
    _check_wheel(wheel)
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
                    with archive.open(name) as licence:
                        (folder / "LICENSE").write_bytes(licence.read(10**6))
    except (DownloadError, SaveError):
        raise
    except Exception as error:  # crafted archives raise errors of any kind
        raise DownloadError(f"{wheel} cannot be read as a wheel: {first_line(error)}") from error
    with saving(folder / WEIGHTS):
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(release_config(), indent=2) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")


def _extract(archive: zipfile.ZipFile, member: str, path: Path) -> None:
    """Copy a file out of the wheel, reading at most its published size, and check it."""
    size, expected = MEMBERS[member]
    try:
        source = archive.open(member)
    except KeyError as error:
        raise DownloadError(
            f"{archive.filename} has no {member}: it is not the wheel of {REQUIREMENT}"
        ) from error
    with source:
        content = source.read(size + 1)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise DownloadError(
            f"{member} has the checksum {digest[:16]}…, not the published "
            f"{expected[:16]}…: the wheel was damaged or changed and is not used"
        )


def _tensors(files: dict[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights, named as in GeoCLIP's own releases."""
    for member, prefix in ((_IMAGE, "image_encoder.mlp."), (_LOCATION, "location_encoder.")):
        weights: dict[str, Tensor] = torch.load(files[member], "cpu", weights_only=True)
        for name, tensor in weights.items():
            yield prefix + name, tensor.detach().contiguous().clone()
    scale: Tensor = torch.load(files[_SCALE], "cpu", weights_only=True)
    yield "logit_scale", scale.detach().clone()


def _wheel_in(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("geoclip-*.whl"))), None)


def _pip_failure(output: list[str]) -> str:
    text = "\n".join(output)
    if "SSL" in text or "CERTIFICATE" in text:
        return "pip does not trust the certificate of its package registry, and fetched nothing"
    if "not a trusted or secure host" in text:
        return "pip's package registry has no https address: nothing is fetched from it"
    if re.search(r"onnection|timed out|name resolution|getaddrinfo", text):
        return "no network: pip cannot reach a package registry; models on this computer still work"
    if "No matching distribution" in text:
        return f"pip's package registry has no {REQUIREMENT}"
    if "No space left" in text or "Errno 28" in text:
        return "the disk is full: free some space, or choose another folder with GEOCLIP_CACHE"
    last = next((line for line in reversed(output) if line), "no reason given")
    return f"pip could not download {REQUIREMENT}: {last}"


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


def download_status(name: str, root: Path | str | None = None) -> WorkStatus | None:
    """Return the status of the last download of a model, or None if there was none."""
    try:
        return download_job(name, root).status
    except JobError:
        return None


def start_download(name: str, root: Path | str | None = None) -> None:
    """Start a download in a process that outlives this one, unless one is active.

    Raises:
        OSError: The status cannot be written.
        JobError: The process cannot be started.
    """
    status = download_status(name, root)
    if status is not None and status.active:
        return
    arguments = ["download", name, "--yes"]
    if root is not None:
        arguments += ["--cache-dir", str(Path(root).absolute())]
    Work.create(download_job(name, root).folder, {"model": name}).launch("geoclip_core", arguments)
