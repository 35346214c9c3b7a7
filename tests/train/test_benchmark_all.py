"""The table of all comparisons: its rows, bars and text. No test looks at a clock."""

import json

import numpy as np
import pytest

from geoclip_core.locator import Geolocator
from geoclip_core.training.embeddings import network_files
from train.__main__ import main
from train.benchmarks import overview
from train.benchmarks.measure import alternated, ratios, run_measured
from train.benchmarks.overview import AllOptions, measured_group
from train.benchmarks.rows import GROUPS, Bare, Row, at_least, at_most, jpeg


def test_a_bar_is_met_missed_or_not_measured():
    values = {"ratio": 1.2, "recall_at_10": 0.97}
    assert Row("", "", "", "s", values, at_most(ratio=1.2)).met is True
    assert Row("", "", "", "s", values, at_most(ratio=1.15)).met is False
    assert Row("", "", "", "s", values, at_least(recall_at_10=0.95)).met is True
    assert Row("", "", "", "s", values, at_least(recall_at_10=0.99)).met is False
    assert Row("", "", "", "s", values, at_most(ratio=2, peak_mb=10)).met is None
    assert Row("", "", "", "s", values, at_most(ratio=1, peak_mb=10)).met is False
    assert Row("", "", "", "s", values).met is None


def test_sides_take_turns_after_one_run_of_each_that_does_not_count():
    ran = []
    costs = alternated({"ours": lambda: ran.append("a"), "theirs": lambda: ran.append("b")}, 3)
    assert ran == ["a", "b"] * 4
    assert [len(found) for found in costs.values()] == [3, 3]


def test_ratios_are_medians_and_extremes_of_the_rounds():
    found = ratios([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert found["ratio"] == 2.0
    assert (found["ratio_lowest"], found["ratio_highest"]) == (1.0, 3.0)
    assert (found["ours"], found["theirs"]) == (4.0, 3.0)


def test_the_memory_of_a_process_is_not_that_of_the_one_that_starts_it(tmp_path):
    held = bytes(400_000_000)
    small = run_measured(["-c", "pass"], tmp_path)
    large = run_measured(["-c", "kept = b'1' * 200_000_000"], tmp_path)
    assert len(held) == 400_000_000
    assert small.peak_mb < 100
    assert 190 < large.peak_mb < 350


def test_a_group_is_measured_in_a_process_and_says_why_it_failed(monkeypatch):
    row = measured_group("tables", quick=True)[0]
    assert row.values["ratio"] > 0
    assert row.bars == at_most(ratio=5.0)
    monkeypatch.setitem(GROUPS, "no such group", GROUPS["tables"])  # not there in the process
    (failed,) = measured_group("no such group", quick=True)
    assert failed.note.startswith("could not be measured: KeyError")
    assert failed.met is None


def test_the_command_writes_json_and_markdown(monkeypatch, tmp_path, capsys):
    row = Row(
        "one | photo",
        "ours",
        "the other",
        "CPU ms",
        {**ratios([3.0], [2.0]), "peak_mb": 1234.0, "recall_at_10": 0.9},
        (*at_most(ratio=1.0), *at_least(recall_at_10=0.95)),
        "random weights",
    )
    monkeypatch.setattr(overview, "measured_group", lambda name, quick: [row])
    output = tmp_path / "speed.json"
    assert main(["benchmark", "all", "--quick", "--rows", "photo", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["rows"][0]["met"] is False
    assert found["rows"][0]["values"]["peak_mb"] == 1234.0
    assert {"torch", "onnxruntime", "python"} <= set(found["versions"])
    assert found["processor"]
    text = output.with_suffix(".md").read_text()
    assert text in capsys.readouterr().out
    assert (
        "| one / photo | ours: 3 CPU ms | the other: 2 CPU ms | 1.5 (1.5–1.5) | 1,234 | ratio at "
        "most 1; recall at 10 at least 0.95 (is 0.9) | no |"
    ) in text
    assert "- one | photo: random weights." in text


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(ValueError, match="'speed' is none of photo, ready"):
        AllOptions(rows=("speed",))
    with pytest.raises(SystemExit):
        main(["benchmark", "all", "--rows", "speed"])
    assert "rows: 'speed' is none of photo, ready" in capsys.readouterr().err


@pytest.mark.slow
def test_both_sides_of_one_photo_compute_the_same():
    """Otherwise the ratio would compare different work."""
    locator = Geolocator.load("mini")
    assert locator.accelerate()
    bare = Bare(network_files(locator.backbone), locator.backbone)
    contents = [jpeg((640, 400), seed) for seed in range(2)]
    ours = np.stack([photo.embedding.numpy() for photo in locator.embed(contents)])
    theirs = bare.embed(contents)
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() < 0.02 * np.abs(ours).max()
