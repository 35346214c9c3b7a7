import json

import pytest

from geoclip_core.jobs import ProgressBar
from tests.data import layout
from tests.data.geotagged import write_photo
from train.__main__ import main


def _status(path):
    return json.loads(path.read_text())


def test_demo_data_then_doctor(tmp_path, capsys):
    root, status = tmp_path / "demo", tmp_path / "status.json"
    arguments = ["demo-data", "--rows", "60", "--output", str(root), "--workers", "1"]
    assert main([*arguments, "--status", str(status)]) == 0
    assert "60 synthetic photos" in capsys.readouterr().out
    assert _status(status)["state"] == "finished"
    assert _status(status)["message"] == f"60 synthetic photos in {root}"
    assert main(["doctor", str(root), "--status", str(status)]) == 0
    assert "no faults found" in capsys.readouterr().out
    assert _status(status)["done"] == _status(status)["total"] == 60
    assert _status(root / "doctor.json")["must_fix"] is False


def test_doctor_exits_1_and_writes_a_cleaned_copy(tmp_path, capsys):
    root = layout.make(tmp_path / "osv")
    (root / "train_images" / "Kansas" / "1000000000000004.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    report, clean = tmp_path / "report.json", tmp_path / "clean"
    arguments = ["doctor", str(root), "--report", str(report), "--write-clean", str(clean)]
    assert main(arguments) == 1
    assert "MUST FIX" in capsys.readouterr().out
    assert not (root / "doctor.json").exists()
    assert _status(report)["must_fix"] is True
    assert len((clean / "train_mini.csv").read_text().splitlines()) == 6
    assert main(["doctor", str(root), "--no-photos", "--report", str(report)]) == 0
    assert _status(report)["photos_checked"] == 0


def test_doctor_of_a_missing_folder_fails(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "gone")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_import_photos(tmp_path, capsys):
    write_photo(tmp_path / "photos" / "a.jpg", (32.4487, -99.7331), seed=1)
    write_photo(tmp_path / "photos" / "b.jpg", seed=2)
    arguments = ["import-photos", str(tmp_path / "photos"), "--output", str(tmp_path / "mine")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "2 photos found: 1 photos added" in out
    assert "not imported: b.jpg: has no position" in out
    assert main(arguments) == 0
    assert "(unchanged)" in capsys.readouterr().out


def test_download_places_an_archive(tmp_path, capsys):
    source = layout.make(tmp_path / "source")
    output = tmp_path / "osv"
    arguments = ["download", "osv-mini", "--output", str(output), "--archive", str(source)]
    assert main(arguments) == 0
    assert "6 train and 2 test photos" in capsys.readouterr().out
    (source / "train_images" / "Kansas" / "1000000000000004.jpg").unlink()
    again = ["download", "osv-mini", "--output", str(tmp_path / "b"), "--archive", str(source)]
    assert main(again) == 1
    assert "1 photos of the tables are not there" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo-data", "--rows", "3", "--output", "x"],
        ["demo-data", "--rows", "100"],
        ["demo-data", "--rows", "100", "--output", "x", "--workers", "0"],
        ["import-photos", "--output", "x"],
        ["import-photos", "x", "--output", "y", "--test-fraction", "0.9"],
        ["download", "imagenet", "--output", "x"],
        ["doctor"],
    ],
)
def test_wrong_command_lines_exit_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["demo-data", "import-photos", "doctor", "download"])
def test_help_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "--status" in capsys.readouterr().out


def test_a_failure_is_written_to_the_status_file(tmp_path):
    path = tmp_path / "status.json"

    def fail():
        with ProgressBar("working", "steps", path) as bar:
            bar.update(1, 2)
            raise ValueError("no space")

    with pytest.raises(ValueError, match="no space"):
        fail()
    assert _status(path)["state"] == "failed"
    assert _status(path)["message"] == "no space"
    assert (_status(path)["done"], _status(path)["total"]) == (1, 2)
