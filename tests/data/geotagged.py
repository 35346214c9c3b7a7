"""Write small photos with an EXIF position and time, as phones do."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational


def _degrees(value: float) -> tuple[IFDRational, ...]:
    minutes = abs(value) % 1 * 60
    seconds = minutes % 1 * 60
    return (
        IFDRational(int(abs(value))),
        IFDRational(int(minutes)),
        IFDRational(round(seconds * 10_000), 10_000),
    )


def write_photo(
    path: Path,
    position: tuple[float, float] | None = None,
    taken: str | None = None,
    offset: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a photo of noise with the EXIF of `exif_of`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, exif=exif_of(position, taken, offset))
    return path


def exif_of(
    position: tuple[float, float] | None = None,
    taken: str | None = None,
    offset: str | None = None,
) -> Image.Exif:
    """Return an EXIF; `taken` is local time as "2021:07:31 12:00:00", `offset` as "+02:00"."""
    exif = Image.Exif()
    if position is not None:
        latitude, longitude = position
        exif[0x8825] = {
            1: "N" if latitude >= 0 else "S",
            2: _degrees(latitude),
            3: "E" if longitude >= 0 else "W",
            4: _degrees(longitude),
        }
    if taken is not None:
        exif[0x8769] = {0x9003: taken} | ({0x9011: offset} if offset else {})
    return exif
