"""The report: one file with every section, without network access or unescaped text."""

import re

import numpy as np
import pytest
from PIL import Image

from geoclip_core.evaluation.baselines import with_baselines
from geoclip_core.evaluation.evaluate import save_evaluation
from geoclip_core.evaluation.metrics import summarise
from geoclip_core.evaluation.predictions import write_predictions
from geoclip_core.files import remember_opened, was_opened
from tests.evaluation.synthetic_predictions import synthetic_predictions
from train.__main__ import main

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    for seed, name in enumerate(("one", "two")):
        frame = synthetic_predictions(150, seed=0, candidates=False)
        frame["error_km"] *= 1 + seed
        frame = with_baselines(frame, {"constant": np.tile([38.0, -105.0], (150, 1))})
        about = {"model": name, "dataset": "made up", "split": "test", "note": "a note"}
        save_evaluation(folder / name, frame, summarise(frame, resamples=0), about)
    return folder


def report(*arguments):
    return main(["report", *map(str, arguments)])


@pytest.mark.slow
def test_the_report_has_every_section(evaluations, tmp_path):
    output = tmp_path / "deep" / "report.html"
    assert report(evaluations / "one", "--beside", evaluations / "two", "--output", output) == 0
    text = output.read_text(encoding="utf-8")
    assert list(output.parent.iterdir()) == [output]
    titles = re.findall("<h2>(.*?)</h2>", text)
    for part in (
        *("Headline", "Photo by photo", "Errors", "Errors on the map", "Errors by state"),
        *("Errors by climate", "Errors by month", "Errors by stated radius", "Certainty"),
        *("Context head: climate", "Context head: city", "Best photos", "Worst photos"),
    ):
        assert part in titles
    assert text.count("plotly.js v") == 1
    assert '"usa_110m"' in text
    assert '"world_110m"' in text
    assert "Best constant guess" in text
    assert "made up, test" in text
    assert len(text) < 12e6


@pytest.mark.slow
def test_the_report_needs_no_network(evaluations, tmp_path):
    output = tmp_path / "report.html"
    assert report(evaluations / "one", "--output", output) == 0
    own = re.sub("<script>.*?</script>", "", output.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", own)


@pytest.mark.slow
def test_text_from_files_is_escaped(tmp_path):
    frame = synthetic_predictions(40, candidates=False)
    for column in ("id", "city_key", "state_key", "state_truth", "state_top1"):
        frame.loc[frame.index % 2 == 0, column] = frame["id"].astype(str) + HOSTILE
    about = {"model": HOSTILE, "dataset": HOSTILE, "note": HOSTILE, "warning": HOSTILE}
    save_evaluation(tmp_path / "run", frame, summarise(frame, resamples=0), about)
    assert report(tmp_path / "run", "--output", tmp_path / "report.html") == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text


@pytest.mark.slow
def test_a_bundled_model_can_be_named(tmp_path):
    assert report("mini", "--output", tmp_path / "mini.html") == 0
    assert "Errors by country" in (tmp_path / "mini.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_single_photo_without_heads_or_places(tmp_path):
    frame = synthetic_predictions(1, candidates=False).filter(
        regex="^(id|latitude|longitude|predicted.*|error_km|radius.*|log_density)$"
    )
    save_evaluation(tmp_path / "run", frame, summarise(frame, resamples=0), {"model": "m"})
    assert report(tmp_path / "run", "--output", tmp_path / "report.html") == 0


def test_errors_are_explained(evaluations, tmp_path, capsys):
    assert report(tmp_path, "--output", tmp_path / "r.html") == 1
    assert "no predictions.parquet" in capsys.readouterr().err
    other = synthetic_predictions(5, candidates=False).assign(id=[f"x{i}" for i in range(5)])
    save_evaluation(tmp_path / "other", other, {}, {"model": "m"})
    arguments = (
        evaluations / "one",
        "--beside",
        tmp_path / "other",
        "--output",
        tmp_path / "r.html",
    )
    assert report(*arguments) == 1
    assert "no photo in common" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_photos_of_a_folder_that_the_user_did_not_open_are_not_embedded(tmp_path, capsys):
    """The folder stands in the table, which may come from a stranger."""
    private = tmp_path / "private"
    private.mkdir()
    frame = synthetic_predictions(30, candidates=False).assign(path="secret.jpg")
    Image.new("RGB", (64, 64), "red").save(private / "secret.jpg")
    about = {"model": "m", "dataset": "d", "root": str(private)}
    path = write_predictions(frame, tmp_path / "sent" / "predictions.parquet", about)
    output = tmp_path / "report.html"
    assert report(path, "--output", output, "--photos") != 0
    assert str(private) in capsys.readouterr().err
    assert not output.exists()
    assert report(path, "--output", output) == 0
    assert "data:image/jpeg" not in output.read_text(encoding="utf-8")
    assert report(path, "--output", output, "--photos", "--data", private) == 0
    assert "data:image/jpeg" in output.read_text(encoding="utf-8")
    assert report(path, "--output", output, "--photos", "--data", tmp_path / "none") != 0
    remember_opened(tmp_path / "private")
    assert report(path, "--output", output, "--photos") == 0
    assert "data:image/jpeg" in output.read_text(encoding="utf-8")
    for trick in (str(private / ".." / "sent"), "/", str(tmp_path), "~nobody/x", "\0"):
        assert not was_opened(trick)


def test_a_path_in_a_table_does_not_lead_out_of_an_opened_folder(tmp_path):
    """`path` may come from a stranger, too."""
    album, private = tmp_path / "album", tmp_path / "private"
    for folder in (album, private):
        folder.mkdir()
        Image.new("RGB", (64, 64), "red").save(folder / "photo.jpg")
    (album / "link.jpg").symlink_to(private / "photo.jpg")
    remember_opened(album)
    outside = ("../private/photo.jpg", str(private / "photo.jpg"), "link.jpg")
    for path, shown in ((outside, False), (("photo.jpg",) * 3, True)):
        frame = synthetic_predictions(30, candidates=False).assign(path=list(path) * 10)
        about = {"model": "m", "dataset": "d", "root": str(album)}
        table = write_predictions(frame, tmp_path / "sent" / "predictions.parquet", about)
        assert report(table, "--output", tmp_path / "report.html", "--photos") == 0
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert ("data:image/jpeg" in text) is shown
