"""Checkpoints of strangers: a model or a `CheckpointError`, in little time and memory."""

import contextlib
import json
import os
import shutil
import socket
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from geoclip_core import Geolocator
from geoclip_core.earth.geocells import Geocells
from geoclip_core.errors import CheckpointError
from geoclip_core.model import checkpoint
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.checkpoint import load_checkpoint, save_checkpoint
from geoclip_core.model.geolocation import GeolocationModel, ModelConfig
from tests.hostile import damaged_bytes, edited_json
from tests.model import tiny_networks
from tests.model.test_geolocation import WORDS, _model
from tests.sphere_points import fibonacci_sphere
from train.benchmarks.hostile import replace_file

METRICS = {"n": 40, "median_km": 900.0, "accuracy_at_km": {"750": 0.4}, "about": {"split": "test"}}
BOUNDED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_networks.write("vit", tmp_path_factory.mktemp("network") / "vit")


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """A checkpoint with linear context heads, cells, and the weights of its backbone."""
    backbone = build_backbone(backbone_config(network))
    config = ModelConfig(tuple(WORDS), True, "geocells", {"cells": 12})
    model = GeolocationModel(config, backbone.config, backbone.block_widths, WORDS, name="whole")
    model.attach_backbone(backbone)
    model.coordinate_head.start_from(fibonacci_sphere(60), Geocells(fibonacci_sphere(12)))
    model.calibration = Calibration(1.2, 300.0, {"50": 0.9}, 40, "here")
    folder = tmp_path_factory.mktemp("checkpoints") / "whole"
    return save_checkpoint(folder, model.eval(), METRICS, "# card", save_backbone=True)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A checkpoint of heads in closed form, without a backbone."""
    model = _model("bank", True, "kernel-ridge")
    model.calibration = Calibration(1.2, 300.0, {"50": 0.9}, 40, "here")
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "bank", model, METRICS)


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "c")


def change(folder, name, edit):
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


def use(folder):
    """Load a folder and predict, as strangers' folders are used."""
    with contextlib.suppress(CheckpointError):
        model = load_checkpoint(folder, with_backbone=False)
        with contextlib.suppress(ValueError, RuntimeError):  # `Geolocator` turns them into its own
            model.predict(torch.randn(2, model.embedding_width))
        checkpoint.read_metrics(folder)


@BOUNDED
@given(data=st.data())
def test_any_json_gives_a_model_or_a_checkpoint_error(whole, bank, tmp_path, data):
    source = data.draw(st.sampled_from([whole, bank]))
    folder = tmp_path / "c"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    names = [path.name for path in sorted(folder.glob("*.json"))]
    name = data.draw(st.sampled_from(names))
    text = (folder / name).read_text()
    (folder / name).write_text(data.draw(edited_json(json.loads(text))))
    use(folder)


@BOUNDED
@given(data=st.data())
def test_damaged_files_give_a_model_or_a_checkpoint_error(whole, bank, tmp_path, data):
    folder = tmp_path / "c"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(data.draw(st.sampled_from([whole, bank])), folder)
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix != ".md"]
    name = data.draw(st.sampled_from(names))
    (folder / name).write_bytes(data.draw(damaged_bytes((folder / name).read_bytes())))
    use(folder)


@settings(BOUNDED, max_examples=25)
@given(data=st.data())
def test_a_photo_is_located_or_the_error_is_ours(whole, tmp_path, data):
    """With the backbone, whose description may be wrong as well."""
    folder = tmp_path / "c"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    if data.draw(st.booleans()):
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(data.draw(edited_json(json.loads(text))))
    else:
        tensors = load_file(folder / "model.safetensors")
        numbers = st.sampled_from([0.0, -1.0, 9e7, -9e7, 1e30, 1e-30, float("nan"), float("inf")])
        for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=5)):
            tensors[name].fill_(data.draw(numbers))
        save_file(tensors, folder / "model.safetensors")
    with contextlib.suppress(CheckpointError):
        Geolocator.load(folder).locate(Image.new("RGB", (60, 40), "green"))


def test_a_depth_that_the_bundled_backbone_does_not_have(tmp_path):
    folder = shutil.copytree(checkpoint.BUNDLED / "mini", tmp_path / "c")
    change(folder, "config.json", lambda c: c["backbone"]["depths"].__setitem__(0, 1000))
    with pytest.raises(CheckpointError, match="has blocks 0 to 20, not 1000"):
        Geolocator.load(folder)


def test_a_long_name_of_a_tensor_is_cut_off_in_the_message(copied):
    tensors = load_file(copied / "model.safetensors")
    save_file(tensors | {"n" * 20_000: torch.zeros(1)}, copied / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds nnn.*…$") as caught:
        load_checkpoint(copied)
    assert len(str(caught.value)) < 1000


ABSURD = {
    "join width": lambda c: c["model"].update(join_options={"width": 10**9}),
    "hidden width": lambda c: c["model"]["head_options"].update(hidden=10**9),
    "cells": lambda c: c["model"]["head_options"].update(cells=10**9),
    "cells, within the limit": lambda c: c["model"]["head_options"].update(cells=200_000),
    "offset rank": lambda c: c["model"]["head_options"].update(offset_rank=10**9),
    "block widths": lambda c: c.update(block_widths=[10**9]),
    "many blocks": lambda c: c.update(block_widths=[32] * 100_000),
    "wide blocks": lambda c: c.update(block_widths=[65536] * 500),
    "bank": lambda c: c["model"].update(
        coordinate_head="bank", head_options={"bank_size": 10_000_000}
    ),
    "view": lambda c: c["backbone"].update(views=[[10**6, 10**6]]),
    "many views": lambda c: c["backbone"].update(views=[[1000, 1000]] * 1000),
    "layers": lambda c: c["architecture"]["transformers"].update(num_hidden_layers=10**6),
    "layers, within numbers": lambda c: c["architecture"]["transformers"].update(
        num_hidden_layers=5000
    ),
    "hidden size": lambda c: c["architecture"]["transformers"].update(hidden_size=10**6),
    "labels": lambda c: c["architecture"]["transformers"].update(num_labels=10**9),
    "NaN": lambda c: c["architecture"]["transformers"].update(layer_norm_eps=float("nan")),
    "another network": lambda c: c["architecture"]["transformers"].update(
        model_type="detr", backbone="owner/model", use_pretrained_backbone=True
    ),
    "code": lambda c: c["architecture"]["transformers"].update(
        auto_map={"AutoModel": "owner/model--module.Class"}
    ),
    "no description": lambda c: c.update(architecture={}),
    "description of pixels": lambda c: c["architecture"].update(pixels={"size": "x"}),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_numbers_are_refused_before_memory_is_taken(copied, name):
    resource = pytest.importorskip("resource")
    change(copied, "config.json", ABSURD[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        Geolocator.load(copied)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} kB were taken"


def test_a_view_that_takes_too_many_operations_is_refused(copied):
    """Patches of one pixel: a million tokens would attend to each other."""
    change(copied, "config.json", lambda c: c["backbone"].update(views=[[1024, 1024]]))
    change(
        copied,
        "config.json",
        lambda c: c["architecture"]["transformers"].update(patch_size=1, image_size=32),
    )
    tensors = load_file(copied / "model.safetensors")
    prefix = "backbone.network.embeddings."
    tensors[prefix + "patch_embeddings.projection.weight"] = torch.zeros(32, 3, 1, 1)
    tensors[prefix + "position_embeddings"] = torch.zeros(1, 1 + 32 * 32, 32)
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(CheckpointError, match="too much: take smaller views"):
        Geolocator.load(copied)


def test_a_vocabulary_with_repeated_keys_is_refused_at_once(copied):
    names = [f"place {i}" for i in range(50_000)] * 2
    change(copied, "vocabularies.json", lambda v: v["climate"].update(keys=names, names=names))
    with pytest.raises(CheckpointError, match=r"vocabularies\.json.*occurs twice"):
        load_checkpoint(copied)


def header(path, edit):
    """Rewrite the header of a safetensors file."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    description = json.loads(content[8 : 8 + size])
    edit(description)
    text = json.dumps(description).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


HEADERS = {
    "shape": lambda h: h["normaliser.mean"].update(shape=[10**9]),
    "no shape": lambda h: h["normaliser.mean"].update(shape=[]),
    "negative": lambda h: h["normaliser.mean"].update(shape=[-1]),
    "overflow": lambda h: h["normaliser.mean"].update(shape=[2**62, 2**62]),
    "kind": lambda h: h["normaliser.mean"].update(dtype="I32"),
    "unknown kind": lambda h: h["normaliser.mean"].update(dtype="X"),
    "rare kind": lambda h: h["normaliser.mean"].update(dtype="F8_E4M3"),
    "beyond the end": lambda h: h["normaliser.mean"].update(data_offsets=[0, 10**12]),
    "backwards": lambda h: h["normaliser.mean"].update(data_offsets=[8, 0]),
    "renamed": lambda h: h.update(x=h.pop("normaliser.mean")),
    "missing": lambda h: h.pop("normaliser.mean"),
    "metadata": lambda h: h.update(__metadata__=[1]),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused(copied, name):
    header(copied / "model.safetensors", HEADERS[name])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(copied, with_backbone=False)


@pytest.mark.parametrize("size", [2**63, 2**40, 99 * 10**6, 0])
def test_a_header_of_a_wrong_length_is_refused(copied, size):
    path = copied / "model.safetensors"
    path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="as safetensors"):
        load_checkpoint(copied)


@pytest.mark.parametrize("name", ["config.json", "vocabularies.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_only_regular_files_of_a_sane_size_are_opened(copied, name, kind):
    path = copied / name
    replace_file(path, kind)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(copied)


WEIGHTS = {
    "a place beyond the pole": ("coordinate_head.centres", 91.0, "no place on Earth"),
    "a cell without size": ("coordinate_head.radii_km", 0.0, "radii_km"),
    "a scale of zero": ("normaliser.scale", 0.0, "scale"),
    "a number of no sane size": ("normaliser.mean", 1e30, "no trained model"),
    "infinity": ("coordinate_head.classifier.bias", float("inf"), "not finite"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_give_no_place_are_refused(copied, name):
    tensor, value, message = WEIGHTS[name]
    tensors = load_file(copied / "model.safetensors")
    tensors[tensor].fill_(value)
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(copied, with_backbone=False)


def test_weights_that_overflow_give_an_error_of_ours(copied):
    """Every number is allowed, their products are not finite."""
    tensors = load_file(copied / "model.safetensors")
    for name, tensor in tensors.items():
        if name.startswith("backbone.") and tensor.is_floating_point():
            tensor.fill_(9e7)
    save_file(tensors, copied / "model.safetensors")
    locator = Geolocator.load(copied)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    with pytest.raises(CheckpointError, match="not finite"):
        locator.locate(photo)
    with pytest.raises(CheckpointError, match="not finite"):
        list(locator.locate_many([photo]))


@pytest.mark.parametrize("kind", ["transformers", "image-text", "geoclip-image"])
@pytest.mark.parametrize("saved", [True, False])
def test_a_local_folder_never_contacts_the_hub(copied, monkeypatch, kind, saved):
    """Its config may name a repository, whose owner would learn who loads it."""
    asked = []

    def refuse(host, *arguments, **options):
        asked.append(host)
        raise OSError("no network in this test")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: refuse(address))

    def edit(config):
        config["backbone"].update(name="owner/tracking", kind=kind)
        config.update(backbone_saved=saved)
        if kind == "image-text":
            inner = {"name": "owner/tracking", "kind": "transformers"}
            config["architecture"] = {"backbone": inner, "architecture": {}, "width": 8}

    change(copied, "config.json", edit)
    with contextlib.suppress(CheckpointError):
        Geolocator.load(copied)
    assert asked == []


def test_pickled_weights_of_a_backbone_are_not_read(network, tmp_path):
    folder = shutil.copytree(network, tmp_path / "vit")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded"):
        build_backbone(folder)


def test_a_pipe_in_the_folder_of_a_backbone_does_not_wait(network, tmp_path):
    folder = shutil.copytree(network, tmp_path / "vit")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ValueError, match="is a device or a pipe"):
        build_backbone(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(median_km="far"),
        lambda m: m.update(n=-1),
        lambda m: m.update(accuracy_at_km=[0.1]),
        lambda m: m.update(accuracy_at_km={"750": 40}),
        lambda m: m.update(about="x"),
        lambda m: m.update(published={"accuracy_at_km": {}}),
    ],
)
def test_metrics_of_another_kind_are_named(copied, edit):
    change(copied, "metrics.json", edit)
    with pytest.raises(CheckpointError, match=r"metrics\.json cannot be used: \w+"):
        checkpoint.read_metrics(copied)


def test_a_metric_that_is_not_finite_was_not_measured(copied):
    change(copied, "metrics.json", lambda m: m.update(median_km=float("nan")))
    assert checkpoint.read_metrics(copied)["median_km"] is None


@pytest.mark.parametrize(
    "name", ["", "\0", "x" * 5000, "~nobody/x", "\ud800", "a/b/c", "/dev/zero", "../..", "owner/x"]
)
def test_any_name_gives_a_checkpoint_error(name, monkeypatch):
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    with pytest.raises(CheckpointError) as caught:
        Geolocator.load(name)
    assert len(str(caught.value)) < 500
