"""What a model knows of: domain.json, its words, and photos unlike the training photos."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.earth.sphere import pairwise_km
from geoclip_core.errors import FileError
from geoclip_core.model.domain import Domain, grid_cells
from geoclip_core.model.geolocation import EmbeddingNormaliser


def photos(countries, states, dates=None, synthetic=False):
    n = len(countries)
    table = pd.DataFrame(
        {
            "latitude": 10.0 + np.arange(n),
            "longitude": np.full(n, 179.9),
            "country_key": pd.array(countries, dtype="str"),
            "state_key": pd.array(states, dtype="str"),
            "captured_at": pd.to_datetime(dates or [None] * n, utc=True),
        }
    )
    return PhotoDataset(Path("."), "made", table, synthetic)


def test_the_words_say_what_the_model_knows():
    states = ["Texas_US", "Texas_US", "Idaho_US"]
    drawn = Domain.of(photos(["US"] * 3, states, ["2023-05-01", "2024-01-02", None], True))
    assert drawn.words == "knows 3 drawn scenes of 2 US states, 2023–2024"
    assert (drawn.first, drawn.last) == ("2023-05-01", "2024-01-02")
    real = Domain.of(photos(["CL", "FI", "CL", "CL"], ["a_CL", "b_FI", "c_CL", "a_CL"]))
    assert real.words == "knows 4 photos of 2 countries (Chile 75 %)"
    assert real.countries == {"CL": 3, "FI": 1}


def test_the_grid_counts_photos_and_is_the_prior():
    domain = Domain.of(photos(["CL"] * 6, ["a_CL"] * 6))
    # latitudes 10 to 15 in cells of 2.5 degrees
    assert [count for _, _, count in domain.cells] == [3, 2, 1]
    assert sum(count for _, _, count in domain.cells) == domain.photos == 6
    prior = domain.prior(10.0)
    assert prior.weights == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    assert prior.bandwidth_km > 100  # not sharper than the grid


def test_cells_lie_where_the_photos_are():
    places = np.array([[90.0, 10.0], [40.0, -120.0], [41.0, -119.9], [-90.0, -180.0], [0.0, 179.9]])
    cells = grid_cells(places)
    assert cells[:, 2].sum() == len(places)
    apart = pairwise_km(places, cells[:, :2]).min(axis=1)
    assert (apart <= 200).all()  # half the diagonal of a cell of 2.5 degrees


def test_a_domain_is_read_as_it_was_written(tmp_path):
    domain = Domain.of(photos(["CL", "FI"], ["a_CL", "b_FI"]), np.linspace(2, -1, 700))
    path = tmp_path / "domain.json"
    path.write_text(domain.to_json())
    assert Domain.read(path) == domain
    assert len(domain.held_out_scores) == 500
    for wrong in (
        {"photos": 0},
        {"cells": [[91, 0, 1]]},
        {"cells": []},
        {"held_out_scores": [float("nan")]},
        {"more": 1},
    ):
        import json

        path.write_text(json.dumps(json.loads(domain.to_json()) | wrong))
        with pytest.raises(FileError, match=next(iter(wrong))):
            Domain.read(path)


def test_the_domain_of_both_counts_the_photos_of_both():
    one = Domain.of(photos(["FR", "FR", "US"], ["a", "b", "c"]), np.arange(30.0))
    other = Domain.of(photos(["US", "US"], ["c", "d"], synthetic=True), [5.0])
    both = one.merged(other)
    assert (both.photos, both.drawn) == (5, False)
    assert both.countries == {"US": 3, "FR": 2}
    assert sum(count for _, _, count in both.cells) == 5
    # three photos of the first and one of the second count, however many repeats there were
    assert len(both.held_out_scores) == 4
    assert other.merged(one).cells == both.cells


def test_one_photo_in_a_hundred_of_the_same_kind_is_called_unlike():
    rng = np.random.default_rng(0)
    made = photos(["CL"], ["a_CL"])
    domain = Domain.of(made, rng.normal(size=400))
    flagged = [domain.familiarity(score).unusual for score in rng.normal(size=4000)]
    assert np.mean(flagged) == pytest.approx(0.01, abs=0.01)
    strange = domain.familiarity(9.0)
    assert strange.unusual
    assert strange.share == pytest.approx(1 / 401)
    assert domain.familiarity(-9.0).share == 1.0
    assert Domain.of(made).familiarity(9.0) is None  # nothing was held out


def test_unlikeness_is_about_zero_for_the_same_kind_and_large_for_others():
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(64, generator=generator) * 5 + 0.5
    draw = lambda n: torch.randn(n, 64, generator=generator) * spread + 3  # noqa: E731
    normaliser = EmbeddingNormaliser((40, 24)).fit(draw(2000))
    assert normaliser.unlikeness(draw(500)).mean() == pytest.approx(0.0, abs=0.05)
    # all scores doubled: mean squared score 4
    doubled = (draw(500) - 3) * 2 + 3
    assert normaliser.unlikeness(doubled).mean() == pytest.approx(np.log(4), abs=0.05)
    assert torch.isfinite(normaliser.unlikeness(torch.full((1, 64), 3.0))).all()
