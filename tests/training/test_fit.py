"""`fit` with geocells and regression: run folder, checkpoint, and what is trained."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geoclip_core.data.dataset import read_dataset
from geoclip_core.evaluation.calibrate import calibrate
from geoclip_core.evaluation.predictions import read_predictions
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.checkpoint import load_checkpoint
from geoclip_core.training import fit as fit_module
from geoclip_core.training.fit import FitRun
from geoclip_core.training.inputs import learnable_vocabularies
from geoclip_core.training.options import FitOptions, OptionsError, from_mapping
from geoclip_core.training.runs import Run
from tests.model import tiny_networks
from tests.training import tiny_photos
from tests.training.tiny_training import run_fit, work


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_photos.write(tmp_path_factory.mktemp("photos"), train=260, test=50)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_networks.write("resnet", tmp_path_factory.mktemp("resnet"), seed=1)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, data, network):
    folder = tmp_path_factory.mktemp("fit") / "run"
    return run_fit(folder, data, network, epochs=12)


def test_a_run_writes_every_file_that_the_pages_read(fitted):
    assert fitted.status.state == "finished", fitted.status.error
    names = {path.name for path in fitted.folder.iterdir()}
    assert {
        "config.yaml",
        "status.json",
        "metrics.jsonl",
        "log.txt",
        "checkpoint",
        "predictions.parquet",
        "metrics.json",
        "tensorboard",
    } <= names
    assert "resume" not in names
    checkpoint = {path.name for path in fitted.checkpoint.iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "vocabularies.json",
        "calibration.json",
    } <= checkpoint
    assert {"metrics.json", "README.md"} <= checkpoint
    assert not [p for p in fitted.folder.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin")]


def test_the_model_beats_the_constant_guess_and_the_majority_class(fitted, data):
    report = json.loads((fitted.folder / "metrics.json").read_text())
    assert report["about"]["split"] == "test"
    assert report["median_km"] < report["baselines"]["constant"]["median_km"] / 2
    assert set(report["context"]) == {"climate", "month", "state", "county", "city"}
    assert report["context"]["state"]["top1"] > 0.5
    frame = read_predictions(fitted.folder / "predictions.parquet")
    assert len(frame) == 50
    assert np.median(frame["error_km"]) == pytest.approx(report["median_km"])


def test_the_best_epoch_by_val_median_is_kept(fitted):
    rows = [row for row in fitted.metrics() if "val/median_km" in row]
    best = min(rows, key=lambda row: row["val/median_km"])
    assert fitted.status.best["median_km"] == pytest.approx(best["val/median_km"])
    report = json.loads((fitted.folder / "metrics.json").read_text())
    assert report["validation"] == fitted.status.best


def test_the_checkpoint_locates_photos_and_is_calibrated(fitted, data):
    model = load_checkpoint(fitted.checkpoint)
    assert model.calibration is not None
    assert "validation" in model.calibration.source
    paths = read_dataset(data).split("test").paths
    from PIL import Image

    batch = model.backbone.preprocessing.batch([Image.open(paths[0])])
    (estimate,) = model.predict(model.backbone.embed(batch))
    assert set(estimate.context) == {"climate", "month", "state", "county", "city"}
    state, county = estimate.context["state"], estimate.context["county"]
    parents = np.array(model.vocabularies["county"].parent)
    summed = np.bincount(parents, county, minlength=len(state))
    assert np.allclose(summed, state, atol=1e-6)


def test_the_card_has_baselines_and_calibration_but_no_local_path(fitted):
    card = (fitted.checkpoint / "README.md").read_text()
    assert "constant" in card
    assert "Calibration" in card
    assert "/tmp" not in card


@pytest.mark.slow
def test_without_context_no_context_parameter_exists(data, network, tmp_path):
    run = run_fit(tmp_path / "run", data, network, use_context=False, epochs=2)
    assert run.status.state == "finished", run.status.error
    names = list(load_file(run.checkpoint / "model.safetensors"))
    assert names
    assert not [name for name in names if "context" in name]
    assert load_checkpoint(run.checkpoint).features == ()


@pytest.mark.slow
@pytest.mark.parametrize(("head", "options"), [("regression", {"hidden": 16}), ("bank", {})])
def test_the_other_coordinate_heads(data, network, tmp_path, head, options):
    if head == "bank":
        options = {"features": ("climate", "state"), "bank.folds": 2, "bank.repeats": 1}
    run = run_fit(tmp_path / "run", data, network, coordinate_head=head, **options)
    assert run.status.state == "finished", run.status.error
    assert load_checkpoint(run.checkpoint).config.coordinate_head == head
    assert json.loads((run.folder / "metrics.json").read_text())["median_km"] > 0


def test_a_frozen_backbone_stays_bit_for_bit_equal(fitted, network):
    before = build_backbone(network).state_dict()
    after = load_checkpoint(fitted.checkpoint).backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_only_the_weights_of_the_last_block_change(data, network, tmp_path):
    run = run_fit(
        tmp_path / "run",
        data,
        network,
        train_backbone="last-block",
        epochs=1,
        backbone_learning_rate=0.01,
        patience=0,
    )
    assert run.status.state == "finished", run.status.error
    before = build_backbone(network)
    after = load_checkpoint(run.checkpoint).backbone.state_dict()
    changed = {n for n, t in before.state_dict().items() if not torch.equal(t, after[n])}
    before.set_trainable("last-block")
    trained = {n for n, p in before.named_parameters() if p.requires_grad}
    assert changed
    assert changed <= trained  # BatchNorm statistics, the last block's too, stay as they are


@pytest.mark.slow
def test_end_to_end_training_changes_the_whole_backbone(data, network, tmp_path):
    run = run_fit(
        tmp_path / "run",
        data,
        network,
        train_backbone="all",
        epochs=1,
        accumulation=2,
        backbone_learning_rate=0.001,
    )
    assert run.status.state == "finished", run.status.error
    before = build_backbone(network).state_dict()
    after = load_checkpoint(run.checkpoint).backbone.state_dict()
    weights = [n for n in before if n.endswith("convolution.weight")]
    assert all(not torch.equal(before[n], after[n]) for n in weights)
    statistics = [n for n in before if "running" in n]
    assert all(torch.equal(before[n], after[n]) for n in statistics)
    assert not (run.folder / "embeddings").exists()


@pytest.mark.slow
def test_accumulated_parts_equal_one_whole_step(data, network, tmp_path):
    options = {"epochs": 1, "dropout": 0.0, "patience": 0}
    whole = run_fit(tmp_path / "whole", data, network, **options)
    parts = run_fit(tmp_path / "parts", data, network, accumulation=4, **options)
    for one, other in zip(whole.metrics(), parts.metrics(), strict=True):
        for name in one.keys() - {"time"}:
            assert one[name] == pytest.approx(other[name], rel=2e-4), name


def test_few_training_photos_suggest_the_bank(fitted):
    assert "training photos are few: --coordinate-head bank" in "\n".join(fitted.log_tail(50))


@pytest.mark.slow
def test_features_without_labels_are_left_out(tmp_path, network):
    root = tmp_path / "data"
    root.mkdir()
    tiny_photos.write(root, train=120, test=20)
    for split in ("train", "test"):
        path = root / f"{split}_mini.csv"
        lines = path.read_text().splitlines()
        column = lines[0].split(",").index("captured_at")
        kept = [lines[0]]
        for line in lines[1:]:
            cells = line.split(",")
            cells[column] = ""
            kept.append(",".join(cells))
        path.write_text("\n".join(kept) + "\n")
    train = read_dataset(root).split("train")
    vocabularies, left_out = learnable_vocabularies(train, ("month", "state"))
    assert list(vocabularies) == ["state"]
    assert left_out == ["month"]
    run = run_fit(tmp_path / "run", root, network, epochs=1)
    assert run.status.state == "finished", run.status.error
    assert "month" not in load_checkpoint(run.checkpoint).features
    assert any("month left out" in line for line in run.log_tail())


@pytest.mark.slow
def test_unreadable_photos_are_left_out_and_named(tmp_path, network):
    root = tmp_path / "data"
    root.mkdir()
    tiny_photos.write(root, train=120, test=20)
    dataset = read_dataset(root)
    for split in ("train", "val", "test"):
        dataset.split(split).paths[0].write_bytes(b"no photo")
    for train in ("none", "last-block"):
        run = run_fit(tmp_path / train, root, network, epochs=1, train_backbone=train)
        assert run.status.state == "finished", run.status.error
        assert any("left out" in line for line in run.log_tail(50))
        assert len(read_predictions(run.folder / "predictions.parquet")) == 19


def test_a_damaged_table_fails_the_run_with_one_sentence(tmp_path, network):
    root = tmp_path / "data"
    root.mkdir()
    tiny_photos.write(root, train=40, test=10)
    path = root / "train_mini.csv"
    lines = path.read_text().splitlines()
    lines[5] = lines[5].replace(lines[5].split(",")[1], "north", 1)
    path.write_text("\n".join(lines) + "\n")
    run = run_fit(tmp_path / "run", root, network)
    assert run.status.state == "failed"
    assert "train_mini.csv" in run.status.error
    assert "latitude" in run.status.error
    assert "row 6" in run.status.error


def test_a_dataset_that_is_too_small_is_an_error(tmp_path, network):
    root = tmp_path / "data"
    root.mkdir()
    tiny_photos.write(root, train=14, test=4)
    run = run_fit(tmp_path / "run", root, network)
    assert run.status.state == "failed"
    assert "20 photos are needed" in run.status.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "x", "features": ("weather",)}, "weather"),
        ({"data": "x", "features": ()}, "no-use-context"),
        (
            {"data": "x", "coordinate_head": "bank", "train_backbone": "all"},
            "train_backbone must be none",
        ),
        ({"data": "x", "coordinate_head": "regression", "geocells.cells": 50}, "cells belongs to"),
        ({"data": "x", "coordinate_head": "geocells", "bank.gammas": (3.0,)}, "gammas belongs to"),
        ({"data": "x", "projection": True}, "projection"),
        ({"data": "x", "accumulation": 64, "batch_size": 32}, "accumulation"),
        ({"data": "x", "val_fraction": 0.0}, "val_fraction"),
        ({"data": "x", "device": "cpu", "precision": "fp16"}, "fp16"),
        ({"data": "x", "views": ("wide",)}, "HEIGHTxWIDTH"),
        ({"data": "x", "learning_rate": 5.0}, "learning_rate"),
        ({"data": "x", "learning_rate": float("nan")}, "learning_rate"),
        ({"data": "x", "dropout": 1.0}, "dropout"),
        ({"data": "x", "context.weights.city": -1.0}, "context.weights.city must be at least 0"),
        ({"data": "x", "context.weights.town": 1.0}, "town"),
        ({"resume": "r", "epochs": 7}, "leave out epochs"),
        ({"data": "x", "epochs": 0}, "epochs"),
    ],
)
def test_invalid_options_are_rejected_before_anything_is_loaded(options, message):
    with pytest.raises(OptionsError, match=message):
        from_mapping(FitOptions, options, "test")


def test_a_missing_dataset_is_an_error():
    with pytest.raises(OptionsError, match="data must be given"):
        FitOptions().dataset_folder()


@pytest.mark.slow
def test_a_stop_while_calibrating_ends_the_run_and_resuming_finishes_it(
    tmp_path, data, network, monkeypatch
):
    phases = []

    def stops_halfway(model, photos, embeddings, progress):
        def report(done, total):
            if done > total / 2:
                Run.open(tmp_path / "run").request_stop()
            progress(done, total)
            phases.append(Run.open(tmp_path / "run").recorded_status.phase)

        return calibrate(model, photos, embeddings, report)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "calibrate", stops_halfway)
        run = run_fit(tmp_path / "run", data, network, epochs=2)
    assert run.status.state == "stopped", run.status.error
    assert "calibrating" in phases
    assert not (run.folder / "predictions.parquet").exists()
    options = from_mapping(FitOptions, run.config, "test")
    assert work(run, options, FitRun, fit_module.fit).status.state == "finished"
    assert len(read_predictions(run.folder / "predictions.parquet")) == 50
