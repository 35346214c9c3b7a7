"""Explanations of an answer that is known to depend on one part of the photo."""

import json

import numpy as np
import pytest
from PIL import Image

from geoclip_core import explain
from geoclip_core.__main__ import main
from geoclip_core.explain import (
    CELLS,
    ELSEWHERE,
    PLACE,
    Effect,
    Explanation,
    covered,
    explain_answers,
    grid_shape,
    moved,
    window_masks,
)
from geoclip_core.locator import Geolocator
from geoclip_core.model.geolocation import Estimate
from geoclip_core.model.posterior import Posterior
from tests.training import tiny_photos
from train.__main__ import main as train

ABILENE, PARIS = (32.4487, -99.7331), (48.8534, 2.3488)
LABELS = {"climate": ("dry", "wet"), "month": ("January", "July")}
APART = np.exp(-7881 / 1492.7)  # GeoScore (0-1) of either place for the other: 7,881 km


def red_sky(size=(160, 120)):
    """Return a grey image with a red upper left quarter."""
    image = Image.new("RGB", size, (90, 90, 90))
    image.paste((250, 0, 0), (0, 0, size[0] // 2, size[1] // 2))
    return image


def estimate(images):
    """Return Abilene and dry with the share of red in the upper left quarter; always July."""
    found = []
    for image in images:
        pixels = np.asarray(image, dtype=float)
        corner = pixels[: image.height // 2, : image.width // 2]
        red = float(np.clip((corner[..., 0] - corner[..., 1]).mean() / 250, 0.01, 0.99))
        posterior = Posterior(np.array([ABILENE, PARIS]), np.log([red, 1 - red]))
        context = {"climate": np.array([red, 1 - red]), "month": np.array([0.2, 0.8])}
        found.append(Estimate(posterior, context))
    return found


@pytest.fixture(scope="module")
def effects():
    return explain_answers(red_sky(), estimate, LABELS)


def test_the_part_that_determines_the_answer_has_the_largest_effect(effects):
    effect = effects["climate"]
    rows, columns = effect.cells.shape
    assert effect.answer == "dry"
    assert effect.support == pytest.approx(0.99, abs=0.02)
    inside = effect.cells[: rows // 2 - 1, : columns // 2 - 1]
    outside = effect.cells[rows // 2 + 1 :, columns // 2 + 1 :]
    assert inside.min() > 0.05
    assert np.abs(outside).max() < 0.001
    marked = np.argwhere(effect.marked)
    assert marked[:, 0].max() <= rows // 2
    assert marked[:, 1].max() <= columns // 2
    assert effect.stands_out
    assert effect.marked_loss > 3 * max(effect.elsewhere)


def test_the_place_is_measured_in_expected_geoscore(effects):
    effect, climate = effects[PLACE], effects["climate"]
    assert "Abilene" in effect.answer
    red = climate.support
    assert effect.support == pytest.approx(5000 * (red + (1 - red) * APART), rel=1e-3)
    # the place loses as much as the class, less the score that Abilene gives Paris
    assert effect.cells == pytest.approx(climate.cells * 5000 * (1 - APART), rel=1e-3, abs=1e-6)


def test_an_answer_that_depends_on_no_part_does_not_stand_out(effects):
    effect = effects["month"]
    assert effect.answer == "July"
    assert not effect.cells.any()
    assert not effect.stands_out


def test_evidence_against_an_answer_is_negative():
    """Little red gives "wet"; covering the red makes "wet" more probable."""
    image = red_sky()
    image.paste((90, 90, 90), (0, 0, 80, 40))
    effect = explain_answers(image, estimate, LABELS)["climate"]
    assert effect.answer == "wet"
    row, column = np.unravel_index(effect.cells.argmin(), effect.cells.shape)
    assert effect.cells[row, column] < -0.05
    assert 40 <= (row + 0.5) / effect.cells.shape[0] * 120 <= 60
    assert (column + 0.5) / effect.cells.shape[1] * 160 <= 80


def test_progress_counts_every_image():
    seen = []
    explain_answers(red_sky(), estimate, LABELS, progress=lambda *step: seen.append(step))
    totals = {total for _, total in seen}
    rows, columns = grid_shape((160, 120))
    assert totals == {(rows - 1) * (columns - 1) + 3 * (1 + ELSEWHERE)}
    done = [done for done, _ in seen]
    assert done == sorted(done)
    assert done[-1] == totals.pop()


@pytest.mark.parametrize("size", [(160, 120), (120, 160), (1000, 100), (60, 900), (33, 33)])
def test_every_photo_has_about_the_same_number_of_cells(size):
    rows, columns = grid_shape(size)
    assert 0.6 * CELLS <= rows * columns <= 1.4 * CELLS
    assert (columns >= rows) == (size[0] >= size[1])
    windows = np.array(window_masks((rows, columns)))
    assert windows.any(axis=0).all()
    assert (windows.sum(axis=(1, 2)) == 4).all()


def test_only_covered_pixels_change_to_the_mean_colour():
    image = Image.new("RGB", (70, 50), (10, 20, 30))
    image.paste((210, 220, 230), (0, 0, 35, 50))
    mask = np.zeros((5, 7), dtype=bool)
    mask[1, 0] = True
    pixels = np.asarray(covered(image, mask))
    assert (pixels[10:20, :10] == (110, 120, 130)).all()
    changed = (pixels != np.asarray(image)).any(axis=2)
    assert changed.sum() == 100
    assert image.getpixel((5, 15)) == (210, 220, 230)


def test_the_shape_is_moved_to_other_places():
    mask = np.zeros((6, 10), dtype=bool)
    mask[1:3, 1:5] = True
    shapes = moved(mask)
    assert len({shape.tobytes() for shape in shapes}) == ELSEWHERE
    for shape in shapes:
        assert shape.sum() == mask.sum()
        assert not (shape & mask).any()


def drawn(cells, support=1.0):
    marked = np.zeros(cells.shape, dtype=bool)
    marked[0, 0] = True
    effect = Effect("dry", support, cells, marked, 0.1, (0.0,))
    image = Image.new("RGB", (90, 60), (128, 128, 128))
    overlay = Explanation("a.jpg", "m", image, {PLACE: effect}).overlay(side=450)
    assert overlay.size == (450, 300)
    return np.asarray(overlay).astype(int)


def test_evidence_for_is_orange_and_against_is_blue():
    cells = np.zeros((4, 6))
    cells[0, 0], cells[3, 5] = 0.5, -0.5
    pixels = drawn(cells)
    red, blue = pixels[..., 0], pixels[..., 2]
    assert red[30, 30] - blue[30, 30] > 100
    assert blue[270, 420] - red[270, 420] > 100
    assert abs(red[150, 200] - blue[150, 200]) < 5


def test_a_photo_without_effects_stays_grey():
    cells = np.zeros((4, 6))
    cells[0, 0] = 0.001  # a thousandth of the support
    pixels = drawn(cells)
    assert np.abs(pixels[..., 0] - pixels[..., 2]).max() < 10


@pytest.fixture
def photo(tmp_path):
    red_sky((320, 200)).save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


@pytest.fixture
def few_cells(monkeypatch):
    """Cover few large parts, so that the bundled model runs on few images, without an export."""
    monkeypatch.setattr(explain, "CELLS", 9)
    monkeypatch.setattr(explain, "ELSEWHERE", 2)
    monkeypatch.setattr(Geolocator, "accelerate", lambda *_, **__: None)


@pytest.mark.slow
def test_command_prints_the_reasons_and_draws_them(photo, few_cells, tmp_path, capsys):
    output = tmp_path / "why.png"
    command = ["explain", str(photo), "--answer", "climate", "--output", str(output)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["place", "climate", "country"]
    assert "expected GeoScore" in lines[0]
    assert all("Hiding the part that matters most costs" in line for line in lines)
    with Image.open(output) as image:
        assert image.format == "PNG"
        assert image.size == (800, 500)


def test_command_explains_its_errors(photo, tmp_path, capsys):
    assert main(["explain", str(photo), "--answer", "month"]) == 1
    assert "choose place or climate or country" in capsys.readouterr().err
    assert main(["explain", str(photo), "--model", "mini-plain", "--answer", "climate"]) == 1
    assert "choose place" in capsys.readouterr().err
    assert main(["explain", str(photo), "--output", str(tmp_path / "why.jpg")]) == 1
    assert "must end in .png" in capsys.readouterr().err
    (tmp_path / "b.jpg").write_text("text")
    assert main(["explain", str(tmp_path / "b.jpg")]) == 1
    assert "b.jpg is not a photo" in capsys.readouterr().err


@pytest.mark.slow
def test_benchmark_averages_over_photos(few_cells, tmp_path, capsys):
    data = tiny_photos.write(tmp_path, train=20, test=4)
    output = tmp_path / "explanation.json"
    command = ["benchmark", "explanation", "--data", str(data), "--photos", "2"]
    assert train([*command, "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found["photos"] == 2
    assert set(found["answers"]) == {PLACE, "climate", "country"}
    for row in found["answers"].values():
        assert row["marked_interval"][0] <= row["marked"] <= row["marked_interval"][1]
        assert 0 <= row["stands_out"] <= 1
    assert "same shape elsewhere" in shown
    with pytest.raises(SystemExit):
        train(["benchmark", "explanation", "--data", str(data), "--photos", "0"])
