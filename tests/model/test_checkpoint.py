import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geoclip_core.errors import CheckpointError
from geoclip_core.model import checkpoint
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.checkpoint import load_checkpoint, read_metrics, save_checkpoint
from geoclip_core.model.domain import Domain
from geoclip_core.model.geolocation import GeolocationModel, ModelConfig
from tests.model.test_geolocation import HEADS, WORDS, _model
from tests.sphere_points import fibonacci_sphere

EMBEDDING = torch.randn(3, 10, generator=torch.Generator().manual_seed(4))


def _same(first, second):
    weights = second.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.state_dict().items())
    for a, b in zip(first.predict(EMBEDDING), second.predict(EMBEDDING), strict=True):
        # float32 heads: two computations may differ in the last digits
        assert a.posterior.mode() == pytest.approx(b.posterior.mode(), abs=1e-4)
        np.testing.assert_allclose(a.posterior.log_weights, b.posterior.log_weights, atol=1e-4)
        assert a.posterior.radius_km(0.5) == pytest.approx(b.posterior.radius_km(0.5), rel=1e-4)
        assert list(a.context) == list(b.context)
        for feature in a.context:
            np.testing.assert_allclose(a.context[feature], b.context[feature], atol=1e-5)


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("use_context", [True, False])
@pytest.mark.parametrize("kind", sorted(HEADS))
def test_round_trip_of_every_head(tmp_path, kind, use_context, calibrated):
    model = _model(kind, use_context)
    if calibrated:
        ranks = [0.2, 0.9, 3.5]
        model.calibration = Calibration(1.7, 90.0, {"50": 0.8, "90": 1.3}, 99, "here", {}, ranks)
        model.domain = Domain(9, True, {"US": 9}, 2, None, "2024-01-31", ((1.25, 1.25, 9),), (0.5,))
    save_checkpoint(tmp_path / "c", model, {"geoscore": 1.5}, "# card")
    again = load_checkpoint(tmp_path / "c", with_backbone=False)
    assert again.calibration == model.calibration
    assert again.domain == model.domain
    assert again.config == model.config
    assert again.vocabularies == model.vocabularies
    assert again.name == "test"
    assert not again.training
    _same(model, again)
    assert read_metrics(tmp_path / "c") == {"geoscore": 1.5}
    assert (tmp_path / "c" / "README.md").read_text() == "# card"
    assert not [path for path in tmp_path.iterdir() if path.name != "c"]


def test_round_trip_of_context_in_closed_form(tmp_path):
    model = _model("bank", True, "kernel-ridge")
    save_checkpoint(tmp_path / "c", model)
    again = load_checkpoint(tmp_path / "c", with_backbone=False)
    assert list(again.vocabularies) == list(WORDS)
    _same(model, again)


def _with_backbone(name="efficientnet-lite2"):
    backbone = build_backbone(BackboneConfig(name, "efficientnet-lite", views=((64, 64),)))
    config = ModelConfig((), False, "bank", {"bank_size": 4, "vote": "cosine"})
    model = GeolocationModel(config, backbone.config, backbone.block_widths, name="lite")
    model.attach_backbone(backbone)
    model.coordinate_head.fit(torch.randn(4, 1280), fibonacci_sphere(4))
    return model.eval()


def test_a_frozen_backbone_is_left_out_and_built_again(tmp_path):
    model = _with_backbone()
    save_checkpoint(tmp_path / "c", model)
    assert not [n for n in load_file(tmp_path / "c" / "model.safetensors") if "backbone" in n]
    again = load_checkpoint(tmp_path / "c")
    assert again.backbone.preprocessing == model.backbone.preprocessing
    pixels = [torch.randn(1, 3, 64, 64)]
    with torch.inference_mode():
        torch.testing.assert_close(again.backbone.embed(pixels), model.backbone.embed(pixels))


def test_a_trained_backbone_is_saved_with_its_weights(tmp_path):
    model = _with_backbone()
    with torch.no_grad():
        model.backbone.network._conv_head.weight += 0.01
    save_checkpoint(tmp_path / "c", model, save_backbone=True)
    again = load_checkpoint(tmp_path / "c")
    assert again.backbone.weights_hash() == model.backbone.weights_hash()


def test_another_backbone_than_the_one_trained_on_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c", _with_backbone())
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    config["backbone_hash"] = "0" * 16
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="other weights"):
        load_checkpoint(tmp_path / "c")


def test_an_old_checkpoint_is_replaced_and_any_other_folder_is_not(tmp_path):
    save_checkpoint(tmp_path / "c", _model("regression", False))
    (tmp_path / "c" / "stale.txt").write_text("x")
    save_checkpoint(tmp_path / "c", _model("geocells", False))
    assert load_checkpoint(tmp_path / "c", with_backbone=False).config.coordinate_head == "geocells"
    assert not (tmp_path / "c" / "stale.txt").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        save_checkpoint(tmp_path / "photos", _model("regression", False))
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model = _model("regression", False)
    save_checkpoint(tmp_path / "c", model, {"version": 1})

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path / "c", model, {"version": 2})
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    assert read_metrics(tmp_path / "c") == {"version": 1}
    assert sorted(os.listdir(tmp_path)) == ["c"]


def test_extra_files_are_copied_in(tmp_path):
    (tmp_path / "p.parquet").write_bytes(b"rows")
    files = {"predictions.parquet": tmp_path / "p.parquet"}
    save_checkpoint(tmp_path / "c", _model("regression", False), files=files)
    assert (tmp_path / "c" / "predictions.parquet").read_bytes() == b"rows"


def _break_json(folder, name, change):
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def _break_tensor(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "is not UTF-8"),
        (lambda f: _break_json(f, "config.json", lambda c: c.update(format=99)), "reads 1"),
        (lambda f: _break_json(f, "config.json", lambda c: c.pop("model")), "model is missing"),
        (lambda f: _break_json(f, "config.json", lambda c: c.update(block_widths=[5])), "shape"),
        (
            lambda f: _break_json(f, "config.json", lambda c: c["model"].update(magic=1)),
            "model.magic is not known",
        ),
        (lambda f: _break_json(f, "vocabularies.json", lambda v: v.pop("climate")), "climate"),
        (lambda f: (f / "calibration.json").write_text('{"temperature": -1}'), "temperature must"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04pickle"), "safetensors"),
        (lambda f: _break_tensor(f, lambda t: t.pop("normaliser.mean")), "lacks the weights"),
        (lambda f: _break_tensor(f, lambda t: t.update(extra=torch.ones(1))), "does not describe"),
        (
            lambda f: _break_tensor(f, lambda t: t["normaliser.mean"].fill_(float("nan"))),
            "not finite",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, damage, message):
    save_checkpoint(tmp_path / "c", _model("regression", True))
    damage(tmp_path / "c")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "c", with_backbone=False)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["regression", "geocells", "retrieval"])
def test_a_checkpoint_of_format_1_predicts_as_it_did(kind):
    """The folders were written by the last version that wrote format 1, with its predictions."""
    folder = Path(__file__).parent / "old_checkpoints" / kind
    model = load_checkpoint(folder, with_backbone=False)
    assert model.config.coordinate_head == ("bank" if kind == "retrieval" else kind)
    assert model.backbone_config.framing == "crop"
    known = json.loads((folder / "expected.json").read_text())
    estimates = model.predict(np.array(known["embedding"], dtype=np.float32))
    for estimate, expected in zip(estimates, known["estimates"], strict=True):
        posterior = estimate.posterior
        # float32 heads: processors may differ in the last digits
        assert posterior.mode() == pytest.approx(tuple(expected["mode"]), abs=1e-4)
        for level, radius_km in expected["radius_km"].items():
            assert posterior.radius_km(int(level) / 100) == pytest.approx(radius_km, rel=1e-4)
        top = np.array(posterior.top_k(3))
        assert top == pytest.approx(np.array(expected["top"]), abs=1e-4)
        for feature, probabilities in expected["context"].items():
            assert estimate.context[feature] == pytest.approx(np.array(probabilities), abs=1e-5)
