import shutil
import sys
import types
import zipfile

import pytest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.kaggle import download_osv_mini
from geoclip_core.errors import DownloadError
from tests.data import layout


@pytest.fixture
def source(tmp_path):
    return layout.make(tmp_path / "source")


def _zip(source, path, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(source.rglob("*")):
            if file.is_file():
                name = file.relative_to(source).as_posix()
                # Kaggle nests a folder in one of the same name.
                head = name.split("/")[0]
                archive.write(file, prefix + (f"{head}/{name}" if "/" in name else name))
        archive.writestr("__MACOSX/train_images/Idaho/._1.jpg", b"x")
        archive.writestr("../../outside/train_images/../../evil.jpg", b"x")
        archive.writestr("readme.txt", b"hello")
    return path


def test_an_archive_is_unpacked_into_place(tmp_path, source):
    archive = _zip(source, tmp_path / "osv.zip", "archive/")
    output = tmp_path / "data" / "osv"
    calls = []
    counts = download_osv_mini(output, archive=archive, progress=lambda *c: calls.append(c))
    assert counts == {"missing": 0, "train": 6, "test": 2}
    assert all(path.is_file() for path in read_dataset(output).paths)
    assert not list(tmp_path.rglob("evil.jpg"))
    assert not (output / "readme.txt").exists()
    assert calls[-1] == (10, 10)


def test_a_folder_unpacked_by_hand_is_put_into_place(tmp_path, source):
    counts = download_osv_mini(tmp_path / "osv", archive=source)
    assert counts["missing"] == 0
    assert len(read_dataset(tmp_path / "osv")) == 8


def test_a_second_run_writes_only_what_is_missing(tmp_path, source):
    archive = _zip(source, tmp_path / "osv.zip")
    output = tmp_path / "osv"
    download_osv_mini(output, archive=archive)
    kept = output / "train_images" / "Idaho" / "844332109483204.jpg"
    stamp = kept.stat().st_mtime_ns
    cut = output / "train_images" / "Texas" / "1000000000000003.jpg"
    cut.write_bytes(b"half")
    (output / "train_mini.csv").unlink()
    assert download_osv_mini(output, archive=archive)["missing"] == 0
    assert kept.stat().st_mtime_ns == stamp
    assert cut.stat().st_size > 100


def test_a_complete_dataset_is_not_downloaded_again(source):
    # kagglehub would fail here.
    assert download_osv_mini(source)["missing"] == 0


def test_missing_photos_are_counted(tmp_path, source):
    shutil.rmtree(source / "train_images" / "Idaho")
    assert download_osv_mini(tmp_path / "osv", archive=source)["missing"] == 2


def test_wrong_archives_are_refused(tmp_path, source):
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"<html>please sign in</html>")
    with pytest.raises(DownloadError, match="not a ZIP archive"):
        download_osv_mini(tmp_path / "osv", archive=bad)
    whole = _zip(source, tmp_path / "osv.zip").read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DownloadError, match="not a ZIP archive, or a damaged one"):
        download_osv_mini(tmp_path / "osv", archive=bad)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("cats/1.jpg", b"x")
    with pytest.raises(DownloadError, match=r"train_mini.csv and test_mini.csv not found"):
        download_osv_mini(tmp_path / "osv", archive=bad)
    with pytest.raises(DownloadError, match="no such file"):
        download_osv_mini(tmp_path / "osv", archive=tmp_path / "gone.zip")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DownloadError, match="is a file"):
        download_osv_mini(tmp_path / "file")


@pytest.fixture
def kaggle(monkeypatch):
    """Replace kagglehub by a fake whose `dataset_download` the test sets."""
    fake = types.ModuleType("kagglehub")
    errors = types.ModuleType("kagglehub.exceptions")
    errors.DataCorruptionError = type("DataCorruptionError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    monkeypatch.setitem(sys.modules, "kagglehub.exceptions", errors)
    return fake


def _raising(error):
    def download(handle):
        raise error

    return download


def test_the_folder_of_kagglehub_is_put_into_place(tmp_path, source, kaggle):
    asked = []
    kaggle.dataset_download = lambda handle: asked.append(handle) or str(source)
    assert download_osv_mini(tmp_path / "osv")["missing"] == 0
    assert asked == ["josht000/osv-mini-129k"]


def test_without_internet_the_message_explains_the_download_by_hand(tmp_path, kaggle):
    import requests

    kaggle.dataset_download = _raising(requests.ConnectionError("Name or service not known"))
    with pytest.raises(DownloadError, match="cannot be reached") as caught:
        download_osv_mini(tmp_path / "osv")
    assert "--archive ARCHIVE.zip" in str(caught.value)
    assert "https://www.kaggle.com/datasets/josht000/osv-mini-129k" in str(caught.value)
    assert "Name or service" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_missing_credentials_are_reported(tmp_path, kaggle, status):
    import requests

    response = requests.Response()
    response.status_code = status
    kaggle.dataset_download = _raising(requests.HTTPError("no", response=response))
    with pytest.raises(DownloadError, match=r"kaggle\.json"):
        download_osv_mini(tmp_path / "osv")


def test_a_damaged_transfer_is_reported(tmp_path, kaggle):
    error = sys.modules["kagglehub.exceptions"].DataCorruptionError("checksum")
    kaggle.dataset_download = _raising(error)
    with pytest.raises(DownloadError, match="run the command again"):
        download_osv_mini(tmp_path / "osv")
