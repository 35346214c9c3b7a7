"""The command ``geoclip``: `locate` with the bundled models, and its help and errors."""

import csv
import json
import os
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
    assert [line["file"] for line in lines] == names
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
    assert [f["properties"]["file"] for f in collection["features"]] == [str(photos / "a.jpg")]


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
    assert json.loads(line)["file"] == " + ".join(names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["locate", "{}/a.jpg", "--model", "nowhere"], "mini"),
        (["locate", "{}/a.jpg", "--top-k", "0"], "--top-k"),
        (["locate", "{}/a.jpg", "--output", "{}/no/such/folder.csv"], "does not exist"),
        (["locate", "{}/empty"], "holds no photo"),
        (["locate", "{}/a.jpg", "--device", "cuda"], "no CUDA GPU"),
        (["locate", "{}/a.jpg", "--device", "gpu"], "choose cpu, cuda or mps"),
    ],
)
def test_errors_are_one_sentence(arguments, words, photos, capsys, monkeypatch):
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
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


def test_locating_with_a_bundled_model_imports_no_tables_hub_or_statistics():
    """They take as long to import as the photo takes."""
    script = (
        "import sys\n"
        "from geoclip_core import Geolocator\n"
        "import geoclip_core.formats\n"
        "from PIL import Image\n"
        "Geolocator.load('mini').locate(Image.new('RGB', (80, 60))).headline\n"
        "heavy = ('pandas', 'pyarrow', 'huggingface_hub', 'transformers', 'scipy.stats', "
        "'scipy.optimize', 'sklearn')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


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


def test_a_claim_is_checked_in_every_format(photos, capsys):
    photo = str(photos / "a.jpg")
    assert main(["locate", photo, "--claim", "Beijing, China"]) == 0
    text = capsys.readouterr().out
    assert "claim     Beijing, China: " in text
    assert "of the probability lies in places that fit better" in text
    assert main(["locate", photo, "--claim", "-33.9,151.2", "--format", "json"]) == 0
    claim = json.loads(capsys.readouterr().out)["claim"]
    assert claim["place"] == "-33.9000, 151.2000"
    assert claim["verdict"] in ("fits", "cannot be ruled out", "speaks against it")
    assert main(["locate", photo, "--claim", "Paris, France", "--format", "csv"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert row["claim_place"] == "Paris, Ile-de-France, France"
    assert 0 <= float(row["claim_better_mass"]) <= 1
    assert main(["locate", photo, "--claim", "Paris, France", "--format", "kml"]) == 0
    assert "Paris, Ile-de-France, France: " in capsys.readouterr().out


def test_an_ambiguous_claim_is_refused_before_any_photo_is_read(photos, capsys):
    assert main(["locate", str(photos / "a.jpg"), "--claim", "Springfield"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "names several places: Springfield, " in printed.err


def test_hints_move_the_estimate(photos, capsys):
    photo = str(photos / "a.jpg")
    hints = ["--given", "country=Chile", "--given", "climate=Csb"]
    assert main(["locate", photo, *hints, "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["given"] == {"country": "Chile", "climate": "Csb"}
    assert record["levels"][2]["name"] == "Chile"
    assert record["moved_km"] > 0
    assert set(record["without_given"]) == {"latitude", "longitude", "place"}
    assert main(["locate", photo, "--given", "country=Chile"]) == 0
    assert "given     With country Chile given, the estimate moved " in capsys.readouterr().out
    assert main(["locate", photo, "--given", "month=1"]) == 1
    assert "mini does not read the month" in capsys.readouterr().err


def test_context_can_be_switched_off_where_there_is_one(photos, capsys):
    photo, answers = str(photos / "a.jpg"), []
    for flags in ([], ["--context-off"]):
        assert main(["locate", photo, "--format", "json", *flags]) == 0
        answers.append(json.loads(capsys.readouterr().out)["candidates"])
    assert answers[0] != answers[1]
    assert main(["locate", photo, "--context-off", "--model", "mini-plain"]) == 1
    assert "mini-plain has no context heads" in capsys.readouterr().err


def test_photos_of_a_folder_are_named_by_their_path_below_it(photos, capsys):
    for name in ("100CANON/IMG_1.jpg", "101CANON/IMG_1.jpg", "@eaDir/IMG_1.jpg", ".t/1.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes((photos / "a.jpg").read_bytes())
    (photos / "._IMG_1.jpg").write_bytes(b"x")
    (photos / "folder.jpg").mkdir()
    (photos / "broken.jpg").unlink()
    found = ["a.jpg", "b.png", "100CANON/IMG_1.jpg", "101CANON/IMG_1.jpg"]
    assert main(["locate", str(photos), "--format", "json", "--top-k", "1"]) == 0
    assert [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()] == found
    both = [str(photos / "100CANON"), str(photos / "101CANON")]
    assert main(["locate", *both, "--format", "json", "--top-k", "1"]) == 0
    rows = [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()]
    assert rows == [f"{folder}/IMG_1.jpg" for folder in both]


def test_output_is_utf_8_whatever_the_code_page(photos):
    for name in ("Łódź.jpg", os.fsdecode(b"caf\xe9.jpg")):
        (photos / name).write_bytes((photos / "a.jpg").read_bytes())
    for kind in ("text", "csv"):
        done = subprocess.run(
            [sys.executable, "-m", "geoclip_core", "locate", str(photos), "--format", kind],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "cp1252"},
            check=False,
        )
        assert done.returncode == 1  # broken.jpg
        text = done.stdout.decode("utf-8")
        assert "Łódź.jpg" in text
        assert "caf\\udce9.jpg" in text


def test_a_position_beside_the_photo_is_shown(photos, capsys):
    place = {"geoData": {"latitude": 48.5, "longitude": 2.25}}
    (photos / "a.jpg.supplemental-metadata.json").write_text(json.dumps(place))
    assert main(["locate", str(photos / "a.jpg"), "--format", "json"]) == 0
    exif = json.loads(capsys.readouterr().out)["exif"]
    assert (exif["latitude"], exif["longitude"]) == (48.5, 2.25)
    assert exif["source"] == "Google Takeout (a.jpg.supplemental-metadata.json)"
