"""`Prediction.check`: how well a photo fits a claimed place, on posteriors with a known answer."""

from dataclasses import replace

import numpy as np
import pytest

from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.errors import PlaceError
from geoclip_core.model.posterior import Posterior
from geoclip_core.prediction import Prediction

ALEPPO, DAMASCUS, LIMA = (36.2012, 37.1612), (33.5102, 36.2913), (-12.0432, -77.0282)


@pytest.fixture(scope="module")
def prediction():
    points, shares = np.array([ALEPPO, LIMA]), np.array([0.7, 0.3])
    return Prediction(
        file="photo.jpg",
        model="known",
        latitude=ALEPPO[0],
        longitude=ALEPPO[1],
        radius_km={0.5: 100.0, 0.9: 5000.0},
        candidates=(),
        context={},
        posterior=Posterior(
            points, np.log(shares), 50.0, held_out_ranks=np.linspace(0.005, 0.995, 100)
        ),
        place=Gazetteer.load().places(ALEPPO)[0],
        prior=Posterior(points, np.log([0.35, 0.65]), 50.0),
    )


def test_the_likeliest_place_fits(prediction):
    claim = prediction.check("Aleppo, Syria")
    assert claim.verdict == "fits"
    assert claim.inside == {0.5: True, 0.9: True}
    assert claim.distance_km == 0
    assert claim.better_mass < 0.05
    # 0.7 of the mass where the training photos have 0.35, with the same kernel
    assert claim.likelihood_ratio == pytest.approx(2.0, rel=1e-3)
    assert claim.p_value > 0.95
    assert claim.held_out == 100


def test_a_less_likely_place_cannot_be_ruled_out(prediction):
    claim = prediction.check(LIMA)
    # all of Aleppo's mass that is denser than Lima: 0.7 · (1 − 0.3 / 0.7) = 0.4
    assert claim.better_mass == pytest.approx(0.4, abs=0.02)
    assert claim.likelihood_ratio == pytest.approx(0.3 / 0.65, rel=1e-3)
    nearby = prediction.check((-12.9, -77.0282))
    assert nearby.verdict == "cannot be ruled out"
    assert nearby.level == "coordinates"
    assert nearby.distance_km > 10_000


def test_a_place_far_from_all_mass_is_spoken_against(prediction):
    claim = prediction.check("Paris, France")
    assert claim.verdict == "speaks against it"
    assert claim.inside == {0.5: False, 0.9: False}
    assert claim.better_mass == 1.0
    assert claim.p_value == pytest.approx(1 / 101)
    assert claim.likelihood_ratio is None  # there is no training photo near it
    assert claim.far_from_training
    words = " ".join(claim.sentences)
    assert "a fit this poor would be seen in 1 % of photos (by 100 held-out photos)" in words
    assert "No training photo lies near it" in words
    assert "true" not in words
    assert "false" not in words


def test_a_country_is_judged_by_its_best_point(prediction):
    country, town = prediction.check("Syria"), prediction.check("Damascus, Syria")
    assert country.distance_km == 0
    assert country.better_mass < 0.05 < town.better_mass
    assert country.p_value >= town.p_value
    assert (country.latitude, country.longitude) == pytest.approx(ALEPPO, abs=0.3)


def test_with_the_prior_a_claim_is_judged_by_what_the_photo_adds(prediction):
    """Lima has less of the mass than Aleppo, and most of the training photos were from there."""
    judged = replace(prediction.posterior, prior=prediction.prior)
    assert judged.misfit(np.array([LIMA]))[0] == pytest.approx(np.log(0.65 / 0.3), abs=0.01)
    ranks = np.r_[np.zeros(20), 0.8, np.full(79, 1.0)]
    judged = replace(judged, held_out_ranks=ranks)
    lima = replace(prediction, posterior=judged).check(LIMA)
    assert lima.p_value == pytest.approx(81 / 101)
    assert lima.better_mass == pytest.approx(0.4, abs=0.02)
    assert not lima.far_from_training
    country = replace(prediction, posterior=judged).check("Peru")
    assert country.p_value >= lima.p_value


def test_without_held_out_photos_there_is_no_p_value_and_words_say_so(prediction):
    old = replace(prediction, posterior=replace(prediction.posterior, held_out_ranks=None))
    claim = old.check("Paris, France")
    assert (claim.p_value, claim.held_out) == (None, 0)
    assert claim.verdict == "speaks against it"
    assert any(sentence.startswith("No p-value") for sentence in claim.sentences)
    assert old.check("Aleppo, Syria").verdict == "fits"
    unknown = replace(old, prior=None).check(ALEPPO)
    assert (unknown.likelihood_ratio, unknown.far_from_training) == (None, False)


def test_an_unknown_place_is_refused_with_suggestions(prediction):
    with pytest.raises(PlaceError, match="several places"):
        prediction.check("Springfield")
