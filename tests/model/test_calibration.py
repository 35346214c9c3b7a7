import json
from dataclasses import replace

import numpy as np
import pytest

from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import destination, haversine_km
from geoclip_core.evaluation.metrics import expected_calibration_error, reliability_curve
from geoclip_core.model import calibration as calibration_module
from geoclip_core.model.calibration import (
    Calibration,
    conformal_quantile,
    fit_calibration,
    fit_level_map,
)
from geoclip_core.model.map_context import corrected, level_outcomes
from geoclip_core.model.posterior import Posterior
from tests.sphere_points import fibonacci_sphere

POINTS = fibonacci_sphere(200)


def _truth_and_posteriors(count, sharpness, seed=0, blur_km=150.0):
    """Draw places (count, 2) from a softmax; the posteriors multiply its logits by `sharpness`."""
    rng = np.random.default_rng(seed)
    posteriors, truth = [], []
    for _ in range(count):
        centre = POINTS[rng.integers(len(POINTS))]
        logits = -haversine_km(POINTS, centre) / 1500
        weights = np.exp(logits - logits.max())
        place = POINTS[rng.choice(len(POINTS), p=weights / weights.sum())]
        step = blur_km * np.sqrt(-2 * np.log(rng.uniform(1e-9, 1)))
        truth.append(destination(place, rng.uniform(0, 360), step))
        posteriors.append(Posterior(POINTS, sharpness * logits))
    return np.array(truth), posteriors


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_over_and_underconfidence_are_corrected(sharpness):
    truth, posteriors = _truth_and_posteriors(300, sharpness)
    calibration = fit_calibration(posteriors, truth, measure_coverage=False)
    assert calibration.temperature == pytest.approx(sharpness, rel=0.35)
    assert 75 < calibration.bandwidth_km < 400
    fresh_truth, fresh = _truth_and_posteriors(300, sharpness, seed=1)
    honest = [calibration.apply(posterior) for posterior in fresh]
    modes = [posterior.mode() for posterior in honest]
    misses = haversine_km(np.array(modes), fresh_truth)
    levels = (0.5, 0.9)
    radii_of_each = [
        dict(zip(levels, one.radii_km(levels, mode), strict=True))
        for one, mode in zip(honest, modes, strict=True)
    ]
    for level, low, high in ((0.5, 0.42, 0.58), (0.9, 0.85, 0.95)):
        radii = [both[level] for both in radii_of_each]
        assert low < np.mean(misses <= radii) < high


@pytest.mark.slow
def test_calibrated_density_beats_the_raw_one():
    truth, posteriors = _truth_and_posteriors(100, 5.0)
    calibration = fit_calibration(posteriors, truth, measure_coverage=False)
    raw = [float(p.log_density(t)[0]) for p, t in zip(posteriors, truth, strict=True)]
    fitted = [
        float(calibration.apply(p).log_density(t)[0])
        for p, t in zip(posteriors, truth, strict=True)
    ]
    assert np.mean(fitted) > np.mean(raw) + 0.2


@pytest.mark.slow
def test_coverage_is_measured_on_photos_that_were_left_out():
    truth, posteriors = _truth_and_posteriors(60, 1.0)
    calibration = fit_calibration(posteriors, truth, source="sixty photos")
    assert calibration.n == 60
    assert calibration.source == "sixty photos"
    assert set(calibration.coverage) == {"50", "90"}
    assert 0.35 < calibration.coverage["50"] < 0.65
    assert calibration.coverage["90"] > 0.8


def test_ranks_compare_with_the_training_photos_where_these_are_known():
    truth, posteriors = _truth_and_posteriors(40, 1.0)

    def prior(bandwidth_km):
        return Posterior(POINTS[:50], np.zeros(50), bandwidth_km)

    plain, by_ratio = (fit_calibration(posteriors, truth, prior=p) for p in (None, prior))
    assert (plain.ranks_of, by_ratio.ranks_of) == ("mass", "ratio")
    assert len(plain.ranks) == len(by_ratio.ranks) == 40
    assert plain.ranks != by_ratio.ranks
    applied = by_ratio.apply(posteriors[0], prior)
    assert applied.prior.bandwidth_km == by_ratio.bandwidth_km
    assert applied.p_values(applied.misfit(truth[:1])) is not None
    # without the training photos the ranks cannot be compared with
    assert by_ratio.apply(posteriors[0]).held_out_ranks is None


def test_ranks_of_older_versions_still_give_p_values():
    text = Calibration(ranks=[0.1, 0.2, 0.9]).to_json()
    older = json.loads(text)
    del older["ranks_of"]
    read = Calibration.from_json(json.dumps(older))

    def prior(bandwidth_km):
        return Posterior(POINTS[:50], np.zeros(50), bandwidth_km)

    applied = read.apply(Posterior(POINTS, np.zeros(len(POINTS))), prior)
    assert applied.prior is None  # misfit is the mass of denser places, as it was then
    assert applied.p_values(np.array([0.5])) == pytest.approx([2 / 4])


def test_posteriors_of_different_length_are_fitted_together():
    truth, posteriors = _truth_and_posteriors(20, 1.0)
    ragged = [
        Posterior(p.points[: 60 + i], p.log_weights[: 60 + i]) for i, p in enumerate(posteriors)
    ]
    assert fit_calibration(ragged, truth, measure_coverage=False).temperature > 0


def test_known_conformal_quantiles():
    # n = 9, half: the 5th smallest; nine tenths: the 9th; beyond n: the largest
    values = [9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert conformal_quantile(values, 0.5) == 5
    assert conformal_quantile(values, 0.9) == 9
    assert conformal_quantile(values, 0.99) == 9
    assert conformal_quantile([0.0] * 9, 0.5) == 1e-3


def test_too_few_photos_are_refused():
    truth, posteriors = _truth_and_posteriors(9, 1.0)
    with pytest.raises(ValueError, match="at least 10"):
        fit_calibration(posteriors, truth)
    with pytest.raises(ValueError, match="9 posteriors for 8"):
        fit_calibration(posteriors, truth[:8])


def test_json_round_trip_and_invalid_values():
    calibration = Calibration(1.5, 80.0, {"50": 0.9, "90": 1.2}, 350, "here", {"50": 0.51})
    assert Calibration.from_json(calibration.to_json()) == calibration
    with pytest.raises(ValueError, match="JSON object"):
        Calibration.from_json("[1]")
    with pytest.raises(ValueError, match="heat is not known"):
        Calibration.from_json(json.dumps({"heat": 3}))
    with pytest.raises(ValueError, match="positive"):
        Calibration(temperature=0.0)
    with pytest.raises(ValueError, match="percentages"):
        Calibration(radius_scale={"0.5": 1.0, "190": 1.0})


def test_levels_that_claim_too_little_are_corrected():
    """The posterior is far too flat; after the correction what is said with 60 % holds for 60 %."""
    rng = np.random.default_rng(0)
    places = Gazetteer.load().coordinates
    points = places[rng.choice(len(places), 60)]

    def photo():
        right = Posterior(points, rng.normal(size=60) * rng.uniform(1, 6), 20.0)
        truth = points[rng.choice(60, p=right.weights)]
        return right.tempered(3.0), truth

    fitted, truths = zip(*(photo() for _ in range(300)), strict=True)
    level_map = fit_level_map(fitted, np.array(truths))
    held_out, truths = zip(*(photo() for _ in range(300)), strict=True)
    errors = []
    for chosen in ((1.0, 0.0), level_map):
        applied = [replace(posterior, level_map=chosen) for posterior in held_out]
        claimed, right = level_outcomes(applied, np.array(truths))
        curve = reliability_curve(claimed, right)
        errors.append(expected_calibration_error(curve))
    assert errors[1] < 0.07
    assert errors[1] < errors[0] / 2


def test_the_correction_of_levels_keeps_their_order_and_certainty():
    shares = np.linspace(0, 1, 50)
    mapped = [corrected(share, 0.6, 1.1) for share in shares]
    assert (np.diff(mapped) > 0).all()
    assert (mapped[0], mapped[-1]) == (0.0, 1.0)
    assert corrected(0.3, 1.0, 0.0) == pytest.approx(0.3)
    one = Posterior(np.array([[48.85, 2.35]]), np.zeros(1), 1.0)
    assert fit_level_map([one] * 20, np.tile(one.points, (20, 1))) == (1.0, 0.0)  # all are right


def test_fits_that_share_their_work_are_those_of_their_photos_alone():
    truth, posteriors = _truth_and_posteriors(50, 2.0)
    shared = calibration_module._HeldOut(posteriors, truth, 1, None)
    for rows in (np.arange(0, 50, 2), np.arange(30), np.arange(50)):
        alone = fit_calibration([posteriors[i] for i in rows], truth[rows], measure_coverage=False)
        both = shared.fit(rows)
        assert both.temperature == pytest.approx(alone.temperature)
        assert both.bandwidth_km == pytest.approx(alone.bandwidth_km)
        assert both.radius_scale == pytest.approx(alone.radius_scale)


def test_the_density_is_that_of_the_posterior():
    truth, posteriors = _truth_and_posteriors(20, 1.0)
    shared = calibration_module._HeldOut(posteriors, truth, 1, None)
    plain = Calibration(temperature=1.7, bandwidth_km=90.0)
    expected = [
        float(plain.apply(posterior).log_density(place[None])[0])
        for posterior, place in zip(posteriors, truth, strict=True)
    ]
    assert shared._log_density(np.log(1.7), np.log(90.0)) == pytest.approx(expected, abs=1e-5)


def test_progress_reaches_its_end_and_can_stop_the_fit():
    truth, posteriors = _truth_and_posteriors(40, 1.0)
    seen = []
    fit_calibration(posteriors, truth, progress=lambda done, total: seen.append((done, total)))
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[0] == totals[-1]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_calibration(posteriors, truth, progress=stop)
