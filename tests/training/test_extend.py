"""`extend_bank`: photos are added to the bank of a model, which need not be there any more."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from geoclip_core.data.vocabulary import IGNORE_INDEX
from geoclip_core.errors import TrainingError
from geoclip_core.evaluation.predictions import read_predictions
from geoclip_core.model.checkpoint import BUNDLED, load_checkpoint
from geoclip_core.training.extend import (
    bank_embeddings,
    bank_models,
    bank_photos,
    compared,
    extend_bank,
    extended_inputs,
    lasting_name,
)
from geoclip_core.training.fit_bank import fit_bank, fit_bank_model
from geoclip_core.training.options import FitOptions, OptionsError, from_mapping
from tests.training.test_fit_bank import Stub, _dataset, _options

OLD = np.arange(48)
"""Rows of the photos in the base model. Its fourth city has none."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return _dataset(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module", params=[True, False], ids=["context", "plain"])
def base_folder(photos, tmp_path_factory, request):
    dataset, embeddings = photos
    # without the fourth city
    rows = OLD[OLD % 4 != 3]
    folder = tmp_path_factory.mktemp("models") / "base"
    options = _options(all_rows=True, nested=False, use_context=request.param)
    part = dataset.select(rows)
    fit_bank(part, embeddings[rows], Stub(), options, folder, name="base", command="made")
    return folder


@pytest.fixture
def base(base_folder):
    model = load_checkpoint(base_folder, with_backbone=False)
    model.attach_backbone(Stub())
    return model


def options(**changes):
    values = {"extend": "base", "data": "own", "bank.folds": 4}
    return from_mapping(FitOptions, values | {"bank.all_rows": True} | changes, "test")


def extended(photos, base, folder, rows, **changes):
    dataset, embeddings = photos
    part = dataset.select(np.asarray(rows))
    metrics = extend_bank(
        part,
        embeddings[np.asarray(rows)],
        base,
        options(**changes),
        folder,
        name="both",
        command="added",
        base_card="# base\n\n## Data and licence\n\nUnder CC0.\n\n## Limits\n",
    )
    return metrics, load_checkpoint(folder, with_backbone=False)


def test_a_bank_can_be_fitted_again_from_its_checkpoint(base):
    """The stand-ins for the embeddings give the same answers as the embeddings themselves."""
    vectors = bank_embeddings(base)
    directions = base.normaliser(vectors)
    head = base.coordinate_head
    assert torch.allclose(
        head.embedding_similarity(directions).diagonal(), torch.ones(len(head.bank)), atol=2e-3
    )
    some = bank_photos(base).select(np.arange(3))
    inputs, _, is_new = extended_inputs(base, some, vectors[:3], options())
    old = replace(inputs, data=inputs.data.take(np.flatnonzero(~is_new)))
    again = fit_bank_model(old)
    queries = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 13)).astype(np.float32))
    for before, after in zip(base.predict(queries), again.predict(queries), strict=True):
        # the base is calibrated, and log weights are known up to a constant
        raw = before.posterior.log_weights * base.calibration.temperature
        fresh = after.posterior.log_weights
        assert np.allclose(raw - raw.max(), fresh - fresh.max(), atol=0.02)
        for feature, shares in before.context.items():
            assert np.allclose(shares, after.context[feature], atol=0.01)


def test_it_learns_what_is_added_and_keeps_the_rest(photos, base, tmp_path):
    rows = [row for row in range(48, 79)] + [row for row in range(48) if row % 4 == 3]
    metrics, model = extended(photos, base, tmp_path / "both", rows)
    dataset, embeddings = photos
    assert len(model.coordinate_head.bank) == 36 + len(rows) == metrics["photos"]
    numbers = metrics["extension"]
    assert (numbers["base"], numbers["base_photos"], numbers["added"]) == ("base", 36, len(rows))
    added, old = numbers["on_added"], numbers["on_base"]
    # the base has never seen the fourth city
    assert added["base_alone"]["difference_interval"][0] > 500
    assert added["extended"]["geoscore"] > 4500
    assert set(added) == {"extended", "base_alone", "added_alone"}
    assert abs(old["base_alone"]["difference"]) < 200
    table = read_predictions(tmp_path / "both" / "predictions.parquet")
    assert list(table["id"]) == list(dataset.select(np.array(rows)).table["id"])
    # what the table says is what the metrics say
    assert metrics["n"] == len(rows)
    assert np.isclose(metrics["geoscore"], added["extended"]["geoscore"])
    assert model.calibration.n == metrics["photos"]
    assert model.domain.photos == metrics["photos"]
    assert sum(model.domain.countries.values()) == metrics["photos"]
    if base.features:
        assert model.vocabularies["country"].keys[:3] == base.vocabularies["country"].keys
        assert set(model.vocabularies["country"].keys) == {"CL", "FI", "KE", "JP"}
    # a Japanese photo that no fit has seen
    estimate = model.predict(embeddings[79:])[0]
    assert abs(estimate.posterior.mode()[1] - 139.69) < 3
    card = (tmp_path / "both" / "README.md").read_text()
    assert f"{len(rows)} photos of four cities joined the 36 of base" in card
    assert "> Under CC0." in card


def test_photos_that_the_bank_has_are_not_added_twice(photos, base, tmp_path):
    rows = [0, 1, 2, *range(60, 70)]
    metrics, model = extended(photos, base, tmp_path / "both", rows)
    assert metrics["extension"]["already_in_bank"] == 3
    assert metrics["extension"]["added"] == 10
    model.attach_backbone(Stub())
    with pytest.raises(TrainingError, match=r"needed to extend both.*13 that are in its bank"):
        extended(photos, model, tmp_path / "again", rows)


def test_photos_of_one_spot_are_held_out_together(photos, base, tmp_path):
    dataset, embeddings = photos
    rows = np.arange(60, 72)
    spot = dataset.select(rows)
    spot.table[["latitude", "longitude"]] = 35.0, 139.0
    metrics = extend_bank(
        spot, embeddings[rows], base, options(), tmp_path / "spot", name="spot", command=""
    )
    found = metrics["extension"]["on_added"]
    # no photo of the spot helped to locate another, and none is left to learn from alone
    assert "added_alone" not in found
    assert abs(found["base_alone"]["difference"]) < 1e-6


def test_too_few_or_too_many_photos_are_said(photos, base, tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="5 photos are needed to extend base, and there are 4"):
        extended(photos, base, tmp_path / "few", range(60, 64))
    monkeypatch.setattr("geoclip_core.training.extend.MAX_RIDGE_BANK", 40)
    with pytest.raises(TrainingError, match="can hold 40 photos; with these 20 it would have 56"):
        extended(photos, base, tmp_path / "many", range(60, 80))


def test_only_a_bank_grows(base):
    base.coordinate_head = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="base cannot be extended"):
        bank_embeddings(base)


def test_the_bundled_model_keeps_its_photos(photos):
    model = load_checkpoint(BUNDLED / "mini")
    table = bank_photos(model).table
    assert len(table) == 350
    assert table["country_key"].nunique() == 89
    assert (table["climate"] != IGNORE_INDEX).sum() == 346
    assert torch.isfinite(bank_embeddings(model)).all()


def test_models_that_can_be_extended_and_their_lasting_names(base_folder, tmp_path, monkeypatch):
    names = ["mini", str(base_folder), str(tmp_path), "no-such-model"]
    assert bank_models(names) == names[:2]
    monkeypatch.chdir(base_folder.parent)
    assert lasting_name("base") == str(base_folder)
    assert lasting_name("mini") == "mini"


def test_options_of_the_model_cannot_be_given_again():
    with pytest.raises(OptionsError, match="leave out backbone") as caught:
        options(backbone="efficientnet-lite0", **{"bank.vote": "cosine"})
    assert set(caught.value.problems) == {"backbone", "bank.vote"}


def test_differences_are_paired():
    errors = {"one": np.array([[100.0, 1000.0]]), "other": np.array([[200.0, 2000.0]])}
    found = compared(errors)
    gap = found["one"]["geoscore"] - found["other"]["geoscore"]
    assert np.isclose(found["other"]["difference"], gap)
    low, high = found["other"]["difference_interval"]
    assert 0 < low <= gap <= high
