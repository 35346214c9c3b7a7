from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from geoclip_core.earth.sphere import (
    EARTH_RADIUS_KM,
    destination,
    geoscore,
    haversine_km,
    pairwise_km,
)
from geoclip_core.model.posterior import Anchors, Posterior, kernel_angles
from tests.model import plain_posterior
from tests.sphere_points import fibonacci_sphere

PARIS, LONDON, SYDNEY = (48.8566, 2.3522), (51.5074, -0.1278), (-33.8688, 151.2093)


def _random(count, seed=0, spread=3.0, bandwidth=200.0):
    rng = np.random.default_rng(seed)
    points = np.stack(
        [np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)], axis=1
    )
    return Posterior(points, spread * rng.normal(size=count), bandwidth)


def _area_km2(grid):
    step = np.radians(grid.latitudes[1] - grid.latitudes[0])
    ring = EARTH_RADIUS_KM**2 * step**2 * np.cos(np.radians(grid.latitudes))
    return np.broadcast_to(ring[:, None], grid.density.shape)


def test_weights_are_normalised_and_minus_infinity_is_zero():
    posterior = Posterior([PARIS, LONDON, SYDNEY], [5.0, 5.0, -np.inf])
    assert posterior.weights == pytest.approx([0.5, 0.5, 0.0])
    assert posterior.tempered(2.0).weights == pytest.approx([0.5, 0.5, 0.0])


def test_temperature_flattens_and_sharpens():
    posterior = Posterior([PARIS, LONDON], np.log([0.8, 0.2]))
    assert posterior.tempered(2.0).weights[0] == pytest.approx(2 / 3)  # √4 to 1
    assert posterior.tempered(0.5).weights[0] == pytest.approx(16 / 17)


@pytest.mark.parametrize(
    ("points", "weights", "bandwidth", "message"),
    [
        ([], [], 1, "0 points"),
        ([PARIS], [0.0, 1.0], 1, "2 weights"),
        ([PARIS], [np.nan], 1, "log weights"),
        ([PARIS], [-np.inf], 1, "log weights"),
        ([PARIS], [0.0], 0.0, "bandwidth"),
        ([(91.0, 0.0)], [0.0], 1, "latitude"),
    ],
)
def test_invalid_distributions_are_refused(points, weights, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        Posterior(np.reshape(points, (-1, 2)), weights, bandwidth)


def test_the_mode_has_the_highest_expected_score():
    posterior = _random(300)
    scores = geoscore(pairwise_km(posterior.points, posterior.points)) @ posterior.weights
    assert posterior.mode() == pytest.approx(tuple(posterior.points[scores.argmax()]))
    assert posterior.expected_scores(posterior.points) * 5000 == pytest.approx(scores)


def test_the_mode_is_not_the_heaviest_point_but_the_best_answer():
    # one point of 0.4 alone, against 0.6 spread over three neighbours
    points = [SYDNEY, PARIS, LONDON, (50.8503, 4.3517)]
    posterior = Posterior(points, np.log([0.4, 0.2, 0.2, 0.2]))
    assert haversine_km(np.array(posterior.mode()), np.array(PARIS)) < 400


def test_scores_of_a_head_decide_the_mode():
    posterior = Posterior([PARIS, SYDNEY], [0.0, -9.0], scores=[0.1, 0.9])
    assert posterior.mode() == pytest.approx(SYDNEY)


def test_a_hundred_thousand_points_are_nearly_exact():
    rng = np.random.default_rng(2)
    points = fibonacci_sphere(100_000)
    distance = haversine_km(points, np.array(PARIS))
    posterior = Posterior(points, -((distance / 800) ** 2) + rng.normal(size=len(points)), 50.0)
    mode = np.array(posterior.mode())
    posterior.top_k(5)
    radius = posterior.radius_km(0.5)
    posterior.log_density(points[:1])
    near = distance < 1500
    chance = posterior.weights[near]
    candidates = points[distance < 300]
    exact = geoscore(pairwise_km(candidates, points[near])) @ chance
    own = float((geoscore(haversine_km(mode, points[near])) * chance).sum())
    assert own > 0.998 * exact.max()
    order = np.argsort(haversine_km(points, mode))
    exact_radius = haversine_km(points, mode)[order][
        np.searchsorted(np.cumsum(posterior.weights[order]), 0.5)
    ]
    assert radius == pytest.approx(exact_radius, rel=0.05)


def test_distinct_places_take_the_mass_around_them():
    near_paris = destination(np.array(PARIS), 90.0, 40.0)
    points = [PARIS, near_paris, SYDNEY, LONDON]
    posterior = Posterior(points, np.log([0.4, 0.2, 0.3, 0.1]), bandwidth_km=10)
    places = posterior.top_k(5)
    assert [place[2] for place in places] == pytest.approx([0.6, 0.3, 0.1])
    assert places[0][:2] == posterior.mode()
    assert places[1][:2] == pytest.approx(SYDNEY)
    for i, place in enumerate(places):
        for other in places[:i]:
            assert haversine_km(np.array(place[:2]), np.array(other[:2])) > 150
    assert len(posterior.top_k(2)) == 2
    with pytest.raises(ValueError, match="at least 1"):
        posterior.top_k(0)


def test_probabilities_of_places_fall_from_the_second_on():
    for seed in range(5):
        places = _random(200, seed, bandwidth=100.0).top_k(8)
        rest = [probability for _, _, probability in places[1:]]
        assert rest == sorted(rest, reverse=True)
        assert _random(200, seed, bandwidth=100.0).top_k(3) == places[:3]


def test_a_single_point():
    posterior = Posterior([(-90.0, 17.0)], [-1234.0], 100.0)
    assert posterior.mode()[0] == -90.0
    assert posterior.top_k(5) == [(-90.0, 17.0, pytest.approx(1.0))]
    # a Gaussian in the plane has its median at 1.177 and its 90 % at 2.146 standard deviations
    assert posterior.radius_km(0.5) == pytest.approx(117.7, rel=0.03)
    assert posterior.radius_km(0.9) == pytest.approx(214.6, rel=0.03)


def test_log_density_at_the_centre_is_that_of_a_gaussian():
    posterior = Posterior([PARIS], [0.0], 50.0)
    value = float(posterior.log_density([PARIS])[0])
    assert value == pytest.approx(-np.log(2 * np.pi * 50.0**2), abs=1e-3)
    aside = destination(np.array(PARIS), 30.0, 100.0)
    assert float(posterior.log_density(aside)[0]) == pytest.approx(value - 2.0, abs=1e-2)


@pytest.mark.parametrize("bandwidth", [1.0, 300.0, 4000.0, 1e6])
def test_density_integrates_to_one(bandwidth):
    posterior = Posterior([(89.5, 20.0), (-10.0, 179.9), SYDNEY], [0.0, 1.0, -1.0], bandwidth)
    grid = posterior.density_grid(1.0)
    assert grid.density.shape == (180, 360)
    assert float((grid.density * _area_km2(grid)).sum()) == pytest.approx(1.0, rel=0.03)


def test_the_grid_agrees_with_the_density():
    posterior = _random(50, bandwidth=400.0)
    grid = posterior.density_grid(5.0)
    corner = np.array([grid.latitudes[7], grid.longitudes[11]])
    assert grid.density[7, 11] == pytest.approx(
        float(np.exp(posterior.log_density(corner)[0])), rel=1e-3
    )


def test_a_grid_may_cross_the_date_line():
    posterior = Posterior([(-17.8, 179.5), (-17.8, -179.5)], [0.0, 0.0], 50.0)
    grid = posterior.density_grid(0.5, bounds=(-25.0, 170.0, -10.0, -170.0))
    assert (grid.longitudes[0], grid.longitudes[-1]) == (170.25, 189.75)
    column = np.abs(grid.longitudes - 180).argmin()
    assert grid.density[:, column].max() > 0.3 * grid.density.max()
    mirrored = grid.density[:, ::-1]
    assert np.allclose(grid.density, mirrored, rtol=1e-3, atol=1e-12)
    with pytest.raises(ValueError, match="larger step"):
        posterior.density_grid(0.01)


def test_rotating_the_longitudes_changes_nothing():
    posterior = _random(40, seed=5)
    turned = Posterior(posterior.points + np.array([0.0, 163.0]), posterior.log_weights, 200.0)
    assert turned.radius_km(0.7) == pytest.approx(posterior.radius_km(0.7), rel=1e-6)
    assert turned.mode()[0] == pytest.approx(posterior.mode()[0])


def test_radius_holds_the_mass_of_the_points():
    # bandwidth of 1 km: the rings are as good as points
    posterior = Posterior([PARIS, LONDON, SYDNEY], np.log([0.6, 0.3, 0.1]), 1.0)
    paris_london = float(haversine_km(np.array(PARIS), np.array(LONDON)))
    assert posterior.radius_km(0.5, PARIS) < 3
    assert posterior.radius_km(0.8, PARIS) == pytest.approx(paris_london, abs=3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        posterior.radius_km(1.0)


def test_radius_is_scaled_between_calibrated_levels():
    plain = _random(100)
    scaled = Posterior(
        plain.points, plain.log_weights, 200.0, radius_scale=((0.5, 0.5), (0.9, 2.0))
    )
    centre = plain.mode()
    assert scaled.radius_km(0.5, centre) == pytest.approx(0.5 * plain.radius_km(0.5, centre))
    assert scaled.radius_km(0.7, centre) == pytest.approx(plain.radius_km(0.7, centre))
    assert scaled.radius_km(0.99, centre) <= np.pi * EARTH_RADIUS_KM


def test_condensing_keeps_the_mass_in_its_place():
    posterior = _random(20_000, spread=1.0)
    small = posterior.condensed(500)
    assert len(small) <= 500
    assert small.weights.sum() == pytest.approx(1.0)
    where = np.array([PARIS, SYDNEY, (0.0, 180.0)])
    assert small.expected_scores(where) == pytest.approx(posterior.expected_scores(where), rel=0.02)
    assert _random(10).condensed(500).points.shape == (10, 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-90, 90), st.floats(-1000, 1000), st.floats(-1e4, 1e4)),
        min_size=1,
        max_size=30,
    ),
    st.floats(0.1, 1e5),
)
def test_every_posterior_has_an_answer(rows, bandwidth):
    values = np.array(rows)
    posterior = Posterior(values[:, :2], values[:, 2], bandwidth)
    latitude, longitude = posterior.mode()
    assert -90 <= latitude <= 90
    assert -180 <= longitude < 180
    places = posterior.top_k(3)
    assert 0 <= sum(place[2] for place in places) <= 1 + 1e-9
    small, large = posterior.radius_km(0.5), posterior.radius_km(0.9)
    assert 0 < small <= large <= np.pi * EARTH_RADIUS_KM + 1e-6
    assert np.isfinite(posterior.log_density(posterior.points[:1])).all()


def _of_cells(count, seed, spread, bandwidth, moved_km=30.0):
    """The posterior of cells in an area of some states, each moved, and with their centres."""
    rng = np.random.default_rng(seed)
    centres = np.c_[rng.uniform(31, 45, count), rng.uniform(-115, -90, count)]
    points = destination(centres, rng.uniform(0, 360, count), rng.uniform(0, moved_km, count))
    middle = centres[rng.integers(count)]
    weights = -haversine_km(points, middle) / 400 + spread * rng.normal(size=count)
    return Posterior(points, weights, bandwidth, anchors=Anchors(centres))


SHAPES = [
    *((40, 0.5, 30.0), (300, 0.1, 50.0), (700, 3.0, 20.0), (1000, 1.0, 60.0), (1000, 0.0, 900.0)),
    *((1000, 8.0, 5.0), (1000, 2.0, 6000.0)),
]


class TestPlainly:
    """Short cuts give what the plain computation of all pairs and all samples gives."""

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("shape", SHAPES)
    def test_answers_of_cells(self, shape, seed):
        count, spread, bandwidth = shape
        posterior = _of_cells(count, seed, spread, bandwidth)
        assert posterior.mode() == pytest.approx(plain_posterior.mode(posterior))
        plain = plain_posterior.top_k(posterior, 6)
        assert np.array(posterior.top_k(6)) == pytest.approx(np.array(plain), abs=2e-6)

    @pytest.mark.parametrize("anchored", [True, False])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_radii(self, shape, anchored):
        posterior = _of_cells(shape[0], 7, *shape[1:])
        if not anchored:
            posterior = replace(posterior, anchors=None)
        masses = (0.05, 0.5, 0.9, 0.999)
        for centre in (posterior.mode(), (38.0, -100.0), (-38.0, 80.0), tuple(posterior.points[0])):
            plain = plain_posterior.radii_km(posterior, masses, centre)
            assert posterior.radii_km(masses, centre) == pytest.approx(plain, rel=1e-6)

    def test_radii_of_many_points_and_of_points_without_weight(self):
        many = _random(5000, spread=2.0)
        centre = many.mode()
        plain = plain_posterior.radii_km(many, (0.5, 0.9), centre)
        assert many.radii_km((0.5, 0.9), centre) == pytest.approx(plain, rel=1e-6)
        weights = np.where(np.arange(100) < 3, 0.0, -np.inf)
        few = Posterior(_random(100).points, weights, 40.0)
        plain = plain_posterior.radii_km(few, (0.45, 0.9), few.mode())
        assert few.radii_km((0.45, 0.9)) == pytest.approx(plain, rel=1e-6)

    @pytest.mark.parametrize("seed", range(5))
    def test_the_mode_of_moving_points_scores_like_the_best(self, seed):
        posterior = replace(_of_cells(900, seed, 2.0, 40.0), anchors=None)
        near = pairwise_km(np.array([posterior.mode()]), posterior.points)
        own = float((np.exp(-near / 1492.7) @ posterior.weights)[0])
        best = plain_posterior.mode(posterior)
        most = float(np.exp(-haversine_km(posterior.points, best) / 1492.7) @ posterior.weights)
        assert own >= 0.999 * most

    def test_anchors_are_dropped_with_their_points(self):
        posterior = _of_cells(300, 0, 1.0, 50.0)
        assert posterior.tempered(2.0).anchors is posterior.anchors
        assert posterior.condensed(50).anchors is None


class TestClaims:
    def test_better_mass_is_uniform_over_places_drawn_from_the_posterior(self):
        rng = np.random.default_rng(0)
        shares = []
        for _ in range(200):
            posterior = Posterior(
                np.c_[rng.uniform(-60, 60, 40), rng.uniform(-180, 180, 40)],
                rng.normal(size=40) * 2,
                400.0,
            )
            truth = draw(posterior, rng)
            shares.append(posterior.better_mass(truth[None])[0])
        assert scipy.stats.kstest(shares, "uniform").pvalue > 0.05

    def test_better_mass_of_one_gaussian_is_known(self):
        # of a Gaussian of two dimensions the share inside the distance d is 1 − exp(−d² / 2σ²)
        posterior = Posterior(np.array([[10.0, 20.0]]), np.zeros(1), 100.0)
        for km in (10.0, 100.0, 200.0):
            place = destination((10.0, 20.0), 77.0, km)
            expected = 1 - np.exp(-((km / 100) ** 2) / 2)
            assert posterior.better_mass(place[None])[0] == pytest.approx(expected, abs=0.01)

    @pytest.mark.parametrize("with_prior", [False, True])
    def test_p_values_of_true_places_are_uniform_even_if_the_posterior_is_wrong(self, with_prior):
        """Conformal p-values need held-out photos, not a right posterior or prior."""
        rng = np.random.default_rng(1)
        before = Posterior(np.array([[10.0, 20.0], [-30.0, 100.0]]), np.zeros(2), 4000.0)

        def rank():
            right = Posterior(
                np.c_[rng.uniform(-60, 60, 30), rng.uniform(-180, 180, 30)],
                rng.normal(size=30) * 2,
                800.0,
            )
            wrong = replace(right.tempered(0.4), bandwidth_km=200.0)  # far too sure
            wrong = replace(wrong, prior=before if with_prior else None)
            return wrong, wrong.misfit(draw(right, rng)[None])

        held_out = np.sort([rank()[1][0] for _ in range(1500)])
        p_values = []
        for _ in range(300):
            posterior, misfit = rank()
            judged = replace(posterior, held_out_ranks=held_out)
            p_values.append(judged.p_values(misfit)[0])
        assert posterior.p_values(misfit) is None
        assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01
        assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.03)

    def test_the_ratio_to_the_prior_tells_more_other_places_apart(self):
        """A world with known truth: three regions have most photos, and evidence is Gaussian."""
        rng = np.random.default_rng(3)
        points = np.c_[rng.uniform(-60, 60, 60), rng.uniform(-180, 180, 60)]
        before = Posterior(points, np.log(1 / np.arange(1, 61)), 300.0)

        def photo():
            own = rng.choice(60, p=before.weights)
            evidence = rng.normal(size=60) + 1.5 * (np.arange(60) == own)
            posterior = Posterior(points, before.log_weights + 1.5 * evidence, 300.0)
            truth = draw(Posterior(points[own][None], np.zeros(1), 300.0), rng)
            return posterior, np.stack([truth, draw(before, rng)])

        photos = [photo() for _ in range(1200)]
        rejected = {}
        for name, prior in (("mass", None), ("ratio", before)):
            misfits = np.array(
                [replace(posterior, prior=prior).misfit(places) for posterior, places in photos]
            )
            judge = replace(photos[0][0], held_out_ranks=np.sort(misfits[:600, 0]))
            true, other = judge.p_values(misfits[600:, 0]), judge.p_values(misfits[600:, 1])
            assert scipy.stats.kstest(true, "uniform").pvalue > 0.01
            rejected[name] = np.mean(other <= 0.05)
        assert rejected["ratio"] > rejected["mass"] + 0.05

    def test_the_ratio_to_the_prior_is_known(self):
        before = Posterior(np.array([[0.0, 0.0], [0.0, 90.0]]), np.log([0.5, 0.5]), 100.0)
        after = replace(before, log_weights=np.log([0.9, 0.1]), prior=before)
        # at the points the floor hardly counts; far from both, nothing is known
        expected = [np.log(0.5 / 0.9), np.log(0.5 / 0.1), 0.0]
        places = np.array([[0.0, 0.0], [0.0, 90.0], [80.0, -100.0]])
        assert after.misfit(places) == pytest.approx(expected, abs=0.01)
        assert after.better_mass(places) == pytest.approx([0.0, 0.8, 1.0], abs=0.02)

    def test_p_value_counts_the_photos_that_fit_as_poorly(self):
        ranks = np.array([0.1, 0.2, 0.3, 0.9])
        posterior = Posterior(np.zeros((1, 2)), np.zeros(1), held_out_ranks=ranks)
        got = posterior.p_values(np.array([0.95, 0.9, 0.25, 0.0]))
        assert got == pytest.approx([1 / 5, 2 / 5, 3 / 5, 1.0])

    def test_many_points_rank_like_few(self):
        rng = np.random.default_rng(2)
        few = Posterior(rng.normal(0, 8, (60, 2)), 3 * rng.normal(size=60), 60.0)
        copies = np.repeat(np.arange(60), 20)
        many = Posterior(few.points[copies], few.log_weights[copies], 60.0)
        asked = rng.normal(0, 8, (20, 2))
        assert many.better_mass(asked) == pytest.approx(few.better_mass(asked), abs=0.05)


def draw(posterior, rng):
    """Draw one place from a posterior: a point by weight, then its kernel."""
    point = posterior.points[rng.choice(len(posterior), p=posterior.weights)]
    angle = kernel_angles(posterior.bandwidth_km, rng.uniform())
    return destination(point, rng.uniform(0, 360), float(angle) * EARTH_RADIUS_KM)


class TestSamples:
    @pytest.mark.parametrize("fixed", [True, False])
    def test_samples_hold_the_mass_of_their_points(self, fixed):
        posterior = Posterior(
            np.array([[0.0, 0.0], [0.0, 179.9], [85.0, 0.0]]), np.log([0.5, 0.3, 0.2]), 300.0
        )
        samples = posterior.samples(600, fixed=fixed)
        assert samples.mass.sum() == pytest.approx(1.0)
        masses = np.bincount(samples.point, samples.mass)
        assert masses == pytest.approx([0.5, 0.3, 0.2], abs=0.002)
        apart = haversine_km(samples.coordinates, posterior.points[samples.point])
        # the mean distance from the centre of a Gaussian in two dimensions is σ·√(π/2)
        assert apart[samples.point == 1].mean() == pytest.approx(300 * np.sqrt(np.pi / 2), rel=0.03)

    def test_fixed_samples_do_not_depend_on_the_weights(self):
        points = np.array([[10.0, 20.0], [30.0, 40.0]])
        one, other = (Posterior(points, np.log([w, 1 - w])) for w in (0.9, 0.2))
        same = one.samples(50, fixed=True).coordinates, other.samples(50, fixed=True).coordinates
        assert np.array_equal(*same)
