"""`fit_bank`: cross-validation, folds, and the checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.earth.sphere import destination, haversine_km
from geoclip_core.evaluation.predictions import read_about, read_predictions
from geoclip_core.model.backbone import Backbone, BackboneConfig, Preprocessing
from geoclip_core.model.checkpoint import load_checkpoint
from geoclip_core.training.fit_bank import (
    BankData,
    BankInputs,
    cross_validate,
    cross_validation_folds,
    fit_bank,
    fit_bank_model,
    hold_out,
    random_folds,
    spatial_folds,
)
from geoclip_core.training.options import FitOptions, OptionsError, from_mapping

# four cities of four countries and climates; embeddings tell the city, with noise
CITIES = [
    (-33.45, -70.67, "Chile", "CL", 7),
    (60.17, 24.94, "Finland", "FI", 25),
    (-1.29, 36.82, "Kenya", "KE", 14),
    (35.68, 139.69, "Japan", "JP", 13),
]
WIDTHS = (8, 5)
BANK = {
    "coordinate_head": "bank",
    "features": ("climate", "country"),
    "context.join_width": 32,
    "bank.folds": 4,
    "bank.repeats": 1,
    "bank.nested": True,
}


class Stub(Backbone):
    def __init__(self):
        super().__init__(BackboneConfig("stub", "test"))
        self.preprocessing = Preprocessing(((32, 32),))
        self.view_block_widths = WIDTHS
        self.layer = nn.Linear(2, 2)

    def features(self, pixels):
        raise AssertionError("its embeddings are given")

    def last_block(self):
        return [self.layer]


def _photos(count=80, seed=0):
    rng = np.random.default_rng(seed)
    city = np.arange(count) % len(CITIES)
    places = np.array([c[:2] for c in CITIES])[city]
    places = destination(places, rng.uniform(0, 360, count), rng.uniform(0, 80, count))
    signal = np.eye(4)[city] @ rng.normal(size=(4, sum(WIDTHS))) * 2
    embeddings = signal + rng.normal(size=(count, sum(WIDTHS)))
    country = [CITIES[c][2] for c in city]
    keys = [CITIES[c][3] for c in city]
    table = pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(count)],
            "path": [f"train_images/{i}.jpg" for i in range(count)],
            "latitude": places[:, 0],
            "longitude": places[:, 1],
            "captured_at": pd.NaT,
            "climate": np.array([CITIES[c][4] for c in city], dtype=np.int16),
            "month": np.int16(-100),
            "country": pd.array(country, dtype="str"),
            "country_key": pd.array(keys, dtype="str"),
            "sequence": pd.array([None] * count, dtype="str"),
            "split": np.where(np.arange(count) % 10 == 0, "test", "train"),
        }
    )
    for place in ("state", "county", "city"):
        table[place] = pd.array([None] * count, dtype="str")
        table[f"{place}_key"] = pd.array([None] * count, dtype="str")
    return table, embeddings.astype(np.float32)


def _options(**bank):
    values = {
        name if name in ("use_context", "license") else f"bank.{name}": value
        for name, value in bank.items()
    }
    return from_mapping(FitOptions, BANK | values, "test")


def _dataset(tmp_path, **changes):
    table, embeddings = _photos(**changes)
    return PhotoDataset(tmp_path, "four cities", table), embeddings


def _inputs(options, count=80):
    table, embeddings = _photos(count)
    dataset = PhotoDataset(None, "four cities", table.assign(split="train"))
    words = build_vocabularies(dataset.table, options.features) if options.use_context else {}
    data = BankData(torch.from_numpy(embeddings), dataset.coordinates, dataset.labels(words))
    return BankInputs(data, words, options, BackboneConfig("stub", "test"), WIDTHS)


def _errors(inputs, estimates):
    modes = np.array([estimate.posterior.mode() for estimate in estimates])
    return haversine_km(modes, inputs.data.coordinates)


@pytest.mark.parametrize(
    "options",
    [
        _options(),
        _options(use_context=False),
        _options(use_context=False, vote="cosine"),
        _options(gammas=(1.0, 2.0), ridges=(0.03, 0.3), context_ridges=(0.1, 1.0)),
    ],
)
def test_held_out_photos_are_located_with_small_errors(options):
    inputs = _inputs(options)
    estimates, unlikeness = hold_out(inputs, random_folds(80, 4, 0))
    assert np.median(_errors(inputs, estimates)) < 150
    # of held-out photos of the same kind the mean squared standard score is about 1
    assert np.median(unlikeness) == pytest.approx(0.0, abs=0.5)
    if options.use_context:
        for feature in options.features:
            top = [int(estimate.context[feature].argmax()) for estimate in estimates]
            assert (np.array(top) == inputs.data.labels[feature]).mean() > 0.8


def test_random_embeddings_are_no_better_than_chance():
    inputs = _inputs(_options(use_context=False))
    noise = torch.randn(80, sum(WIDTHS), generator=torch.Generator().manual_seed(3))
    blind = replace(inputs, data=BankData(noise, inputs.data.coordinates, {}))
    errors = _errors(blind, hold_out(blind, random_folds(80, 4, 0))[0])
    # one city in four is right by chance; a leak of the held-out photo would find it every time
    assert (errors < 500).mean() < 0.5


def test_each_fold_is_calibrated_on_the_others():
    inputs = _inputs(_options(use_context=False))
    validation = cross_validate(inputs, random_folds(80, 4, 0))
    bandwidths = {estimate.posterior.bandwidth_km for estimate in validation.estimates}
    assert len(bandwidths) > 1  # one calibration a fold
    inside = [
        haversine_km(np.array(e.posterior.mode()), place) <= e.posterior.radius_km(0.9)
        for e, place in zip(validation.estimates, inputs.data.coordinates, strict=True)
    ]
    assert np.mean(inside) > 0.8


def test_random_folds_are_even_and_depend_on_the_seed():
    folds = random_folds(103, 10, 5)
    assert sorted(np.bincount(folds)) == [10] * 7 + [11] * 3
    assert np.array_equal(folds, random_folds(103, 10, 5))
    assert not np.array_equal(folds, random_folds(103, 10, 6))


def test_spatial_folds_keep_neighbours_together():
    coordinates = np.array(
        [[0.0, 179.95], [0.0, -179.95], [10.0, 0.0], [10.2, 0.0], [10.4, 0.0], [50, 50]]
    )
    folds = spatial_folds(coordinates, 3, 0, group_km=30.0)
    assert folds[0] == folds[1]  # 11 km apart across the date line
    assert folds[2] == folds[3] == folds[4]  # a chain of 22 km steps
    assert len({folds[0], folds[2], folds[5]}) == 3


@pytest.mark.slow
def test_the_checkpoint_holds_model_metrics_and_predictions(tmp_path):
    dataset, embeddings = _dataset(tmp_path)
    (tmp_path / "ATTRIBUTION.md").write_text("# title\nPhotos by Ada, CC BY-SA 4.0.\n")
    options = _options(all_rows=True, license="CC BY-SA 4.0", note="Take care.")
    seen = []
    metrics = fit_bank(
        dataset,
        embeddings,
        Stub(),
        options,
        tmp_path / "mini",
        name="mini",
        command="python -m train fit --recipe mini --data DIR",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (12, 12)
    assert metrics["geoscore"] > 4000 > metrics["baselines"]["constant"]["geoscore"]
    assert metrics["photos"] == 80
    assert 0.4 < metrics["coverage"]["50"] <= 1.0
    saved = json.loads((tmp_path / "mini" / "metrics.json").read_text())
    assert saved["cross_validation"]["geoscore_of_repeats"] == pytest.approx([metrics["geoscore"]])
    frame = read_predictions(tmp_path / "mini" / "predictions.parquet")
    assert list(frame["id"]) == list(dataset.table["id"])
    assert frame["error_km"].median() == pytest.approx(metrics["median_km"])
    assert {"climate_top1", "country_rank", "radius_90_km", "log_density"} <= set(frame.columns)
    assert read_about(tmp_path / "mini" / "predictions.parquet")["split"] == "cross-validation"
    card = (tmp_path / "mini" / "README.md").read_text()
    assert "license: cc-by-sa-4.0" in card
    assert "> Photos by Ada" in card
    assert f"{metrics['geoscore']:,.0f}" in card
    assert "best constant guess" in card
    assert "**Take care.**" in card
    assert "--recipe mini" in card
    model = load_checkpoint(tmp_path / "mini", with_backbone=False)
    assert model.calibration is not None
    assert model.calibration.n == 80
    # the saved options are those that were chosen, not those that it started from
    assert model.config.context_options["sharpness"].keys() == {"climate", "country"}
    estimate = model.predict(embeddings[:1])[0]
    assert haversine_km(np.array(estimate.posterior.mode()), dataset.coordinates[0]) < 200


@pytest.mark.slow
def test_test_rows_and_unreadable_photos_are_left_out(tmp_path):
    dataset, embeddings = _dataset(tmp_path)
    embeddings[[3, 7]] = np.nan
    options = _options(use_context=False)
    metrics = fit_bank(dataset, embeddings, Stub(), options, tmp_path / "m", name="m", command="")
    assert metrics["photos"] == 80 - 8 - 2
    assert metrics["unreadable"] == 2
    frame = read_predictions(tmp_path / "m" / "predictions.parquet")
    assert not set(frame["id"]) & {"p0", "p3", "p7", "p10"}
    assert set(dataset.table["split"]) == {"train", "test"}  # the caller's table is untouched


def test_the_same_inputs_give_the_same_weights(tmp_path):
    inputs = _inputs(_options())
    first, second = (fit_bank_model(inputs).state_dict() for _ in range(2))
    for name in first:  # float32 weights, solved in double precision
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6)


def test_invalid_data_and_options_are_errors(tmp_path):
    dataset, embeddings = _dataset(tmp_path)
    with pytest.raises(ValueError, match="width 13"):
        fit_bank(
            dataset, embeddings[:, :5], Stub(), _options(), tmp_path / "x", name="x", command=""
        )
    few, rows = _dataset(tmp_path, count=20)
    with pytest.raises(ValueError, match="20 photos are needed"):
        fit_bank(few, rows, Stub(), _options(), tmp_path / "x", name="x", command="")
    with pytest.raises(ValueError, match="not finite"):
        BankData(torch.full((40, 3), torch.nan), np.zeros((40, 2)), {})
    with pytest.raises(OptionsError, match="ridges must be greater than 0"):
        _options(ridges=(0.0,))
    with pytest.raises(OptionsError, match="ridges"):
        _options(ridges=())
    with pytest.raises(OptionsError, match="context_share"):
        _options(context_share=1.0)
    with pytest.raises(OptionsError, match="turn use_context off"):
        from_mapping(FitOptions, BANK | {"features": ()}, "test")


def test_an_exception_in_the_progress_callback_leaves_no_files(tmp_path):
    dataset, embeddings = _dataset(tmp_path)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_bank(
            dataset,
            embeddings,
            Stub(),
            _options(),
            tmp_path / "x",
            name="x",
            command="",
            progress=stop,
        )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("count", [20, 30])
@pytest.mark.parametrize("kind", ["four cities", "one town", "one spot", "one photo labelled"])
def test_a_few_photos_are_enough(tmp_path, count, kind):
    table, embeddings = _photos(count)
    table["split"] = "train"
    if kind in ("one town", "one spot"):
        places = destination(
            np.tile([48.137, 11.575], (count, 1)),
            np.linspace(0, 330, count),
            np.linspace(0, 6 if kind == "one town" else 0.01, count),
        )
        table["latitude"], table["longitude"] = places.T
        table["country"], table["country_key"] = "Germany", "DE"
        table["climate"] = np.int16(15)
    elif kind == "one photo labelled":
        table.loc[1:, "country_key"] = pd.NA
    dataset = PhotoDataset(tmp_path, kind, table)
    options = from_mapping(FitOptions, {**BANK, "bank.folds": 10}, "test")
    metrics = fit_bank(
        dataset, embeddings, Stub(), options, tmp_path / "made", name="made", command=""
    )
    assert metrics["n"] == metrics["photos"] == count
    far = metrics["cross_validation"].get("geoscore_spatially_blocked")
    assert (far is not None) == (kind not in ("one town", "one spot"))
    model = load_checkpoint(tmp_path / "made", with_backbone=False)
    assert model.calibration is not None
    assert len(model.coordinate_head.bank) == count


def test_photos_of_one_spot_or_sequence_share_a_fold():
    table, _ = _photos(40)
    table["split"] = "train"
    table.loc[[3, 7], ["latitude", "longitude"]] = [10.0, 20.0]
    table.loc[[4, 9, 12], "sequence"] = "ride"
    for seed in range(5):
        fold_of = cross_validation_folds(PhotoDataset(Path(), "spots", table), 10, seed)
        assert fold_of[3] == fold_of[7]
        assert len(set(fold_of[[4, 9, 12]])) == 1
        assert np.bincount(fold_of, minlength=10).max() <= 5
