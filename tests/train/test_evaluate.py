"""The commands `evaluate` and `calibrate`, run as a user runs them, on a demo set."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from geoclip_core.data.dataset import read_dataset
from geoclip_core.demo.dataset import write_demo
from geoclip_core.evaluation import evaluate as loop
from geoclip_core.evaluation.predictions import read_about, read_predictions
from geoclip_core.locator import Geolocator
from geoclip_core.model.calibration import Calibration, identity_of
from geoclip_core.model.checkpoint import load_checkpoint, read_metrics, save_checkpoint
from geoclip_core.training import embeddings
from tests.ui.conftest import ABIDJAN, ABILENE, make_model
from train.__main__ import main

pytestmark = pytest.mark.slow  # every test waits for the drawn photos or their embeddings


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "demo"
    write_demo(root, 60, test_fraction=0.25, workers=1)
    return root


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A model that always says Abilene in Texas, and one without context that says Abidjan."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "texas": make_model("texas", ABILENE, "BWh", "US"),
        "plain": make_model("plain", ABIDJAN),
    }
    return {
        name: save_checkpoint(folder / name, model, numbers)
        for name, (model, numbers) in made.items()
    }


@pytest.fixture
def command(demo, tmp_path, tmp_path_factory, monkeypatch):
    """Run a command on the demo set in a folder of its own, with embeddings kept between tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embeddings, "MANY_PHOTOS", 1000)  # faster than an export for 45 photos
    cache = tmp_path_factory.getbasetemp() / "embeddings"

    def run(*arguments):
        return main([*map(str, arguments), "--data", str(demo), "--cache-dir", str(cache)])

    return run


def test_evaluation_of_a_model(command, demo, checkpoints, capsys):
    assert command("evaluate", "--model", checkpoints["texas"], "--resamples", 50) == 0
    folder = next((Path.cwd() / "evaluations").iterdir())
    assert folder.name.startswith("texas-on-")
    assert folder.name.endswith("-test")
    assert sorted(p.name for p in folder.iterdir()) == ["metrics.json", "predictions.parquet"]
    frame, numbers = (
        read_predictions(folder / "predictions.parquet"),
        json.loads((folder / "metrics.json").read_text()),
    )
    test = read_dataset(demo).split("test")
    assert frame["id"].tolist() == test.table["id"].tolist()
    assert numbers["n"] == len(test)
    assert numbers["about"]["use_context"] is True
    assert numbers["about"]["synthetic"] is True
    assert "synthetic" in numbers["about"]["note"]
    assert read_about(folder / "predictions.parquet") == numbers["about"]
    # it always says Texas: right as often as the photo was taken there
    texas = (test.table["state_key"] == "Texas_US").mean()
    assert numbers["place_accuracy"]["region"] == pytest.approx(texas)
    assert set(numbers["baselines"]) >= {
        "constant",
        "true_state_centroid",
        "nearest_photo",
        "nearest_10",
    }
    assert numbers["baselines"]["constant"]["difference"]["geoscore"]["low"] is not None
    low, high = numbers["intervals"]["geoscore"]
    assert low <= numbers["geoscore"] <= high
    shown = capsys.readouterr().out
    assert "nearest_10" in shown
    assert f"{len(test)} photos" in shown


def test_an_interrupted_evaluation_continues_where_it_stopped(command, checkpoints, monkeypatch):
    monkeypatch.setattr(loop, "SHARD_PHOTOS", 3)
    whole, calls = loop.write_predictions, []

    def killed(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    arguments = ("evaluate", "--model", checkpoints["texas"], "--output", "out", "--resamples", 0)
    monkeypatch.setattr(loop, "write_predictions", killed)
    assert command(*arguments) == 130
    assert len(list(Path("out").rglob("shards/*/*.parquet"))) == 2
    assert not Path("out/metrics.json").exists()
    assert command(*arguments) == 0
    assert len(calls) == 3 + 3 + 1  # the killed shard and the two after it, then the whole table
    assert not Path("out/shards").exists()


def test_comparison_with_the_model_without_context(command, checkpoints, capsys):
    arguments = (
        "evaluate",
        "--model",
        checkpoints["texas"],
        "--output",
        "texas",
        "--no-neighbours",
    )
    assert command(*arguments, "--resamples", 50, "--compare", checkpoints["plain"]) == 0
    numbers = json.loads(Path("texas/metrics.json").read_text())
    gain = numbers["comparisons"]["plain"]["difference"]["geoscore"]
    assert gain["low"] > 0  # Texas is nearer than Africa
    assert "nearest_photo" not in numbers["baselines"]
    assert "minus plain: GeoScore +" in capsys.readouterr().out
    plain = next(Path("evaluations").glob("plain-on-*"))
    assert json.loads((plain / "metrics.json").read_text())["about"]["use_context"] is False
    # its predictions are there now, and are taken from there
    assert command(*arguments, "--resamples", 20, "--compare", plain) == 0


def test_a_csv_of_another_system_can_be_evaluated(command, demo, capsys):
    rows = read_dataset(demo).split("test").table
    theirs = rows[["id", "latitude", "longitude"]].iloc[:10].copy()
    theirs["latitude"] += 1.0
    theirs.to_csv("theirs.csv", index=False)
    assert command("evaluate", "--predictions", "theirs.csv", "--output", "out") == 0
    numbers = json.loads(Path("out/metrics.json").read_text())
    assert numbers["n"] == 10
    assert numbers["median_km"] == pytest.approx(111.19, abs=0.01)
    assert numbers["about"]["unanswered"] == len(rows) - 10
    assert "constant" in numbers["baselines"]
    assert "theirs" in capsys.readouterr().out


def test_memorised_photos_cause_a_warning(command, demo, capsys):
    rows = read_dataset(demo).split("test").table
    rows[["id", "latitude", "longitude"]].to_csv("copied.csv", index=False)
    assert command("evaluate", "--predictions", "copied.csv", "--output", "out") == 0
    assert "probably been trained on these photos" in capsys.readouterr().err
    assert "100%" in read_about("out/predictions.parquet")["warning"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no-such-model"], "no-such-model"),
        (["--predictions", "missing.csv"], "missing.csv"),
        (["--model", "folder"], "neither a checkpoint"),
    ],
)
def test_errors_are_explained(command, capsys, arguments, message):
    Path("folder").mkdir()
    assert command("evaluate", *arguments) == 1
    assert message in capsys.readouterr().err


def test_unreadable_photos_are_left_out_and_counted(demo, checkpoints, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(demo, broken)
    test = read_dataset(broken).split("test")
    test.paths[0].write_bytes(b"\xff\xd8\xff not a photo")
    test.paths[1].unlink()
    arguments = ["evaluate", "--model", str(checkpoints["texas"]), "--data", str(broken)]
    arguments += ["--output", str(tmp_path / "out"), "--no-neighbours", "--resamples", "0"]
    assert main([*arguments, "--cache-dir", str(tmp_path / "cache")]) == 0
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["n"] == len(test) - 2
    assert numbers["about"]["unreadable"] == 2
    assert (
        test.table["id"][0]
        not in pd.read_parquet(tmp_path / "out/predictions.parquet")["id"].values
    )
    assert "left out" in capsys.readouterr().err


class TestCalibrate:
    def test_a_copy_is_calibrated_on_val(self, command, checkpoints, capsys):
        before = (checkpoints["texas"] / "calibration.json").read_text()
        arguments = ("calibrate", "--model", checkpoints["texas"], "--val-fraction", 0.3)
        assert command(*arguments, "--output", "copy") == 0
        fitted = Calibration.from_json(Path("copy/calibration.json").read_text())
        assert fitted.n >= 10
        assert "validation split" in fitted.source
        assert "truth inside the 90 % radius" in Path("copy/README.md").read_text()
        assert (checkpoints["texas"] / "calibration.json").read_text() == before
        assert "before" in capsys.readouterr().out
        assert command(*arguments, "--output", "copy") == 1
        assert "not empty" in capsys.readouterr().err

    def test_own_checkpoints_are_changed_in_place(self, command, checkpoints, tmp_path):
        shutil.copytree(checkpoints["plain"], tmp_path / "mine")
        assert command("calibrate", "--model", "mine", "--val-fraction", 0.3) == 0
        assert (tmp_path / "mine" / "calibration.svg").exists()
        fitted = Calibration.from_json((tmp_path / "mine" / "calibration.json").read_text())
        assert fitted.source != "a test"

    @pytest.mark.parametrize("of_an_older_version", [False, True])
    def test_an_earlier_radius_check_does_not_judge_the_new_radii(
        self, command, checkpoints, tmp_path, of_an_older_version
    ):
        """The 50 % radius held 1 % of 300 test photos, with the calibration before."""
        shutil.copytree(checkpoints["texas"], tmp_path / "mine")
        check = {"50": {"contradicted": True, "factor": 9.0, "coverage": 0.01}}
        numbers = {"n": 300, "coverage": {"50": 0.01}, "radius_check": check}
        if not of_an_older_version:
            numbers["calibrated_by"] = identity_of(load_checkpoint("mine").calibration)
        (tmp_path / "mine" / "metrics.json").write_text(json.dumps(numbers))

        def note():
            locator = Geolocator.load(tmp_path / "mine")
            return locator.locate(Image.new("RGB", (64, 64))).radius_note

        assert "the 50 % radius held 1 %" in note()
        assert command("calibrate", "--model", "mine", "--val-fraction", 0.3) == 0
        assert note() is None
        after = read_metrics(tmp_path / "mine")
        assert {key: after[key] for key in numbers if key != "calibrated_by"} == {
            key: numbers[key] for key in numbers if key != "calibrated_by"
        }
        assert "with an earlier calibration" in (tmp_path / "mine" / "README.md").read_text()
        # the same photos give the same calibration, which the check still contradicts
        numbers["calibrated_by"] = identity_of(load_checkpoint("mine").calibration)
        (tmp_path / "mine" / "metrics.json").write_text(json.dumps(numbers))
        assert command("calibrate", "--model", "mine", "--val-fraction", 0.3) == 0
        assert "the 50 % radius held 1 %" in note()

    def test_bundled_models_are_not_changed(self, command, capsys):
        assert command("calibrate", "--model", "mini") == 1
        assert "--output" in capsys.readouterr().err

    def test_too_few_validation_photos(self, command, checkpoints, capsys):
        arguments = ("calibrate", "--model", checkpoints["texas"], "--val-fraction", 0.01)
        assert command(*arguments, "--output", "copy") == 1
        assert "at least 10" in capsys.readouterr().err
