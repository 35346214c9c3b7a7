"""The command ``geoclip``: `locate` with the bundled models, and its help and errors."""

import csv
import json
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from geoclip_core import Geolocator, bundled_models
from geoclip_core.__main__ import COMMANDS, main
from geoclip_core.commands import CLASSES


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        pixels = random.integers(0, 255, (90, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_text("a text file renamed")
    return tmp_path


@pytest.mark.parametrize("model", ["mini", "mini-plain"])
def test_bundled_models_locate_a_photo(model, photos):
    assert model in bundled_models()
    locator = Geolocator.load(model)
    prediction = locator.locate(photos / "a.jpg")
    assert -90 <= prediction.latitude <= 90
    assert 0 < prediction.radius_km[0.5] < prediction.radius_km[0.9]
    assert prediction.calibrated
    assert len(prediction.candidates) == 5
    expected = {"climate", "country"} if model == "mini" else set()
    assert set(prediction.context) == expected
    for classes in prediction.context.values():
        assert sum(share for _, share in classes) == pytest.approx(1)


def test_a_broken_photo_does_not_stop_the_others(photos, capsys):
    names = [str(photos / name) for name in ("a.jpg", "broken.jpg", "b.png")]
    assert main(["locate", *names, "--format", "json", "--top-k", "3"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == ["a.jpg", "broken.jpg", "b.png"]
    assert set(lines[1]) == {"file", "error"}
    assert len(lines[2]["candidates"]) == 3
    assert lines[2]["exif"] is None


def test_csv_of_a_folder_is_written_to_a_file(photos, capsys):
    output = photos / "places.csv"
    assert main(["locate", str(photos), "--format", "csv", "--output", str(output)]) == 1
    rows = list(csv.DictReader(output.open(encoding="utf-8")))
    assert [bool(row["error"]) for row in rows] == [False, False, True]
    assert all(row["country"] for row in rows[:2])
    assert capsys.readouterr().out == ""


def test_geojson_holds_every_readable_photo(photos, capsys):
    assert main(["locate", str(photos / "a.jpg"), "--format", "geojson"]) == 0
    collection = json.loads(capsys.readouterr().out)
    assert [f["properties"]["file"] for f in collection["features"]] == ["a.jpg"]


@pytest.mark.slow
def test_kml_holds_every_readable_photo(photos, capsys):
    assert main(["locate", str(photos), "--format", "kml"]) == 1
    text = capsys.readouterr().out
    names = [e.text for e in ElementTree.fromstring(text.encode()).iter() if e.tag[-4:] == "name"]
    assert names[1:] == ["a.jpg", "b.png"]


@pytest.mark.slow
def test_photos_of_one_place_give_one_estimate(photos, capsys):
    names = [str(photos / "a.jpg"), str(photos / "b.png")]
    assert main(["locate", *names, "--together", "--format", "json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["file"] == "a.jpg + b.png"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["locate", "{}/a.jpg", "--model", "nowhere"], "mini"),
        (["locate", "{}/a.jpg", "--top-k", "0"], "--top-k"),
        (["locate", "{}/a.jpg", "--output", "{}/no/such/folder.csv"], "does not exist"),
        (["locate", "{}/empty"], "holds no photo"),
    ],
)
def test_errors_are_one_sentence(arguments, words, photos, capsys, monkeypatch):
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    (photos / "empty").mkdir()
    assert main([argument.format(photos) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_failed_output_leaves_the_old_file(photos, monkeypatch):
    output = photos / "places.json"
    output.write_text("old")

    def broken(self, *_, **__):
        raise OSError("disk full")
        yield

    monkeypatch.setattr(Geolocator, "locate_many", broken)
    command = ["locate", str(photos / "a.jpg"), "--format", "json", "--output", str(output)]
    assert main(command) == 1
    assert output.read_text() == "old"
    assert not list(photos.glob(".places*"))


@pytest.mark.parametrize("arguments", [["locate"], ["locate", "a.jpg", "--format", "x"], ["find"]])
def test_wrong_usage_exits_with_2(arguments):
    command = [sys.executable, "-m", "geoclip_core", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["locate", "explain", "models", "download", "push"]),
        (["locate"], ["PHOTO", "--model", "--top-k", "--format", "--output", "--together"]),
        (["explain"], ["PHOTO", "--answer", "--output"]),
        (["download"], ["--yes", "--offline", "--wheel", "--cache-dir"]),
    ],
)
def test_help_imports_nothing_heavy(arguments, words):
    heavy = ("torch", "pandas", "scipy", "transformers", "PIL", "numpy")
    script = (
        "import sys\n"
        "from geoclip_core.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print([name for name in {heavy} if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *shown, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert all(word in "\n".join(shown) for word in words)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_list_of_commands_loads_no_other_module_of_the_package(arguments):
    script = (
        "import sys\n"
        "from geoclip_core.__main__ import main\n"
        "main(sys.argv[1:])\n"
        "print([n for n in sys.modules if n == 'tyro' or n.startswith('geoclip_core.')])"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['geoclip_core.__main__']"


def test_unknown_command_is_one_sentence(capsys):
    assert main(["locat", "photo.jpg"]) == 2
    assert capsys.readouterr().err.startswith("geoclip: error: there is no 'locat'; choose from")


def test_every_command_of_the_list_exists():
    assert list(COMMANDS) == list(CLASSES)
    for name, summary in COMMANDS.items():
        assert CLASSES[name].__doc__.startswith(summary)
