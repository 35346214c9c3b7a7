"""Nested selection: every fold chooses from its own training photos."""

import numpy as np
import pytest
import torch

from geoclip_core.earth.sphere import destination
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.training.fit_bank import BankData
from geoclip_core.training.options import BankOptions, FitOptions
from train.benchmarks import bank as benchmark
from train.benchmarks.bank import Features, NestedSelection, candidate_features

BACKBONE = BackboneConfig("stub", "test")
VIEW = (4, 3)


def subject(count=60, informative=0, seed=0):
    """Two views of two blocks; only one block of one view says where a photo is."""
    rng = np.random.default_rng(seed)
    city = np.arange(count) % 3
    places = np.array([(-33.0, -70.0), (60.0, 25.0), (-1.0, 36.0)])[city]
    places = destination(places, rng.uniform(0, 360, count), rng.uniform(0, 60, count))
    embeddings = rng.normal(size=(count, 2 * sum(VIEW)))
    start = informative * sum(VIEW)
    embeddings[:, start : start + 3] += 6 * np.eye(3)[city]
    return BankData(torch.from_numpy(embeddings.astype(np.float32)), places, {})


def selection(data, features, **changes):
    bank = BankOptions(folds=3, repeats=2, **changes)
    options = FitOptions(coordinate_head="bank", use_context=False, bank=bank)
    return NestedSelection(data, features, options, BACKBONE, VIEW)


def test_candidates_are_subsets_of_views_with_growing_depths():
    found = candidate_features(2, 5)
    assert len(found) == 3 * 4
    assert Features((0, 1), (0, 1, 2)) in found
    assert Features((1,), ()) in found
    assert candidate_features(1, 0) == [Features((0,), ())]


def test_blocks_are_in_the_order_of_the_embedding():
    assert Features((1, 2), (0, 2)).blocks(per_view=4) == [4, 5, 7, 8, 9, 11]


@pytest.mark.slow
@pytest.mark.parametrize("informative", [0, 1])
def test_the_informative_view_is_chosen(informative):
    result = selection(subject(informative=informative), candidate_features(2, 1)).measure()
    assert result.settings == 6 * 3 * 3 * 3 * 3
    assert result.errors_km.shape == (2, 60)
    assert np.isfinite(result.errors_km).all()
    assert sum(result.chosen.values()) == 6
    assert all(informative in features.views for features, _ in result.chosen)
    assert np.median(result.errors_km) < 200


def test_a_choice_does_not_depend_on_the_held_out_photos():
    data = subject()
    rows = np.arange(40)
    features = candidate_features(2, 1)
    before = selection(data, features).choose(rows)
    spoilt = BankData(data.embeddings.clone(), data.coordinates.copy(), {})
    spoilt.embeddings[40:] = 1e3
    spoilt.coordinates[40:] = 0
    assert selection(spoilt, features).choose(rows) == before


def test_the_choice_has_the_best_left_out_score(monkeypatch):
    scores = iter([0.2, 0.9, 0.4])
    monkeypatch.setattr(benchmark, "choose_field", lambda head, options: (next(scores), {}))
    monkeypatch.setattr(benchmark, "FIELD_SCALES", ((1000.0,), (2000.0,), (3000.0,)))
    _, options = selection(subject(), [Features((0,), ())]).choose(np.arange(40))
    assert options.bank.field_scales == (2000.0,)


def test_an_embedding_of_incomplete_views_is_an_error():
    data = subject()
    cut = BankData(data.embeddings[:, :-1], data.coordinates, {})
    with pytest.raises(ValueError, match="view width 7"):
        selection(cut, [Features((0,), ())])
