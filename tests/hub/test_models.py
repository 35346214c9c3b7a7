"""Models by name: pushed to a hub, loaded from it, and errors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from geoclip_core.__main__ import main
from geoclip_core.data.vocabulary import month_vocabulary
from geoclip_core.errors import CheckpointError
from geoclip_core.files import cache_folders
from geoclip_core.hub.catalogue import installed_model
from geoclip_core.locator import Geolocator
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.checkpoint import save_checkpoint
from geoclip_core.model.geolocation import GeolocationModel, ModelConfig
from tests.geoclip.geoclip_files import make_geoclip
from tests.hub.fake_hub import COMMIT, fake_hub


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    for name in ("GEOCLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with fake_hub(tmp_path / "hub") as server:
        server.token = "secret"
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def checkpoint(tmp_path):
    """Heads on the image side of a small GeoCLIP."""
    make_geoclip(cache_folders().models / "geoclip")
    backbone = build_backbone("geoclip-image")
    torch.manual_seed(0)
    model = GeolocationModel(
        ModelConfig(features=("month",), use_context=True, coordinate_head="regression"),
        backbone.config,
        backbone.block_widths,
        {"month": month_vocabulary()},
        name="mine",
    )
    model.attach_backbone(backbone)
    return save_checkpoint(tmp_path / "mine", model, {"n": 3}, "# mine\n\nMade of noise.\n")


def photo():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))


@pytest.mark.slow
def test_a_pushed_checkpoint_can_be_loaded_by_its_id(hub, checkpoint, capsys):
    (checkpoint / "notes.txt").write_text("private")
    assert main(["push", str(checkpoint), "user/mine", "--license", "cc-by-4.0"]) == 0
    assert f"commit/{COMMIT}" in capsys.readouterr().out
    pushed = {path.name for path in (hub.root / "user" / "mine").iterdir()}
    assert pushed >= {"model.safetensors", "config.json", "vocabularies.json", "metrics.json"}
    assert "notes.txt" not in pushed
    card = (hub.root / "user" / "mine" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name:")
    assert card.endswith("# mine\n\nMade of noise.\n")
    here, there = Geolocator.load(checkpoint), Geolocator.load("user/mine")
    assert (there.name, there.metrics) == ("user/mine", {"n": 3})
    assert installed_model("user/mine").kind == "checkpoint"
    a, b = here.locate(photo()), there.locate(photo())
    assert (a.latitude, a.longitude, a.context) == (b.latitude, b.longitude, b.context)
    asked = len(hub.requests)
    Geolocator.load("user/mine")
    assert len(hub.requests) == asked, "the second load needs no network"


def test_a_geoclip_release_on_a_hub_can_be_loaded(hub, tmp_path):
    make_geoclip(hub.root / "user" / "world")
    prediction = Geolocator.load("user/world").locate(photo())
    assert prediction.model == "user/world"
    assert prediction.context_source == "map"


def test_code_in_a_repository_is_not_downloaded(hub, checkpoint):
    main(["push", str(checkpoint), "user/mine"])
    (hub.root / "user" / "mine" / "modeling.py").write_text("raise SystemExit('ran')")
    Geolocator.load("user/mine")
    assert "modeling.py" not in [name for name, _ in hub.downloads()]


def test_a_checkpoint_that_does_not_load_is_not_kept(hub, checkpoint):
    main(["push", str(checkpoint), "user/mine"])
    path = hub.root / "user" / "mine" / "config.json"
    config = json.loads(path.read_text())
    config["block_widths"] = [7]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not put in place"):
        Geolocator.load("user/mine")
    assert installed_model("user/mine") is None


def test_a_checkpoint_on_geoclip_names_the_missing_download(hub, checkpoint, tmp_path, monkeypatch):
    main(["push", str(checkpoint), "user/mine"])
    monkeypatch.setenv("GEOCLIP_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(CheckpointError, match="download geoclip"):
        Geolocator.load("user/mine")


def test_a_checkpoint_that_cannot_be_loaded_is_not_pushed(hub, tmp_path, checkpoint, capsys):
    (checkpoint / "model.safetensors").write_bytes(b"")
    assert main(["push", str(checkpoint), "user/mine"]) == 1
    assert "safetensors" in capsys.readouterr().err
    assert hub.requests == []


def test_a_push_without_a_token_is_an_error(hub, checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "other")
    assert main(["push", str(checkpoint), "user/mine"]) == 1
    assert "hf auth login" in capsys.readouterr().err


def test_a_push_without_network_is_an_error(checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(checkpoint), "user/mine"]) == 1
    assert "no network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user/mine", "no network"),
        ("nothing", r"there is no model 'nothing'; .*to download: geoclip"),
        (
            "facebook/dinov2-small",
            r"python -m geoclip_core download facebook/dinov2-small` \(88 MB, licence Apache-2.0\)",
        ),
        ("a/b/c", "there is no model"),
    ],
)
def test_errors_of_loading_list_the_models(monkeypatch, name, message):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=message):
        Geolocator.load(name)


def test_loading_offline_is_an_error(monkeypatch):
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="switched off"):
        Geolocator.load("user/mine")
