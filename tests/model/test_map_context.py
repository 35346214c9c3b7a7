import numpy as np
import pytest

from geoclip_core.earth.gazetteer import UNIT_LEVELS, Gazetteer
from geoclip_core.model import map_context as module
from geoclip_core.model.map_context import map_context, place_levels
from geoclip_core.model.posterior import Posterior

ABILENE, AUSTIN, TOKYO, MID_ATLANTIC = (32.45, -99.73), (30.27, -97.74), (35.68, 139.7), (30, -45)


def posterior(bandwidth_km=1.0, **weights):
    places = [globals()[name.upper()] for name in weights]
    points, logs = np.array(places, dtype=float), np.log(list(weights.values()))
    return Posterior(points, logs, bandwidth_km, fixed=True)


def test_labels_are_weighted_by_the_posterior():
    context = map_context(posterior(abilene=0.5, austin=0.3, tokyo=0.2))
    assert list(context) == ["climate", "country", "state", "county", "city"]
    assert [label for label, _ in context["country"]] == ["United States", "Japan"]
    assert [p for _, p in context["country"]] == pytest.approx([0.8, 0.2])
    assert context["state"][0][0] == "Texas, United States"
    assert context["state"][0][1] == pytest.approx(0.8)
    assert context["city"][0][0] == "Abilene, Taylor County, Texas, United States"
    assert dict(context["climate"])["BSh, arid, steppe, hot"] == pytest.approx(0.5, abs=0.01)


def test_the_sea_has_no_country_and_no_climate():
    context = map_context(posterior(abilene=0.25, mid_atlantic=0.75))
    assert context["country"] == [("United States", pytest.approx(0.25))]
    assert sum(p for _, p in context["climate"]) == pytest.approx(0.25)
    assert map_context(posterior(mid_atlantic=1.0)) == {}


def test_top_and_features_limit_the_labels():
    context = map_context(posterior(abilene=0.5, tokyo=0.5), top=1, features=("country",))
    assert list(context) == ["country"]
    assert len(context["country"]) == 1


def test_many_points_are_looked_up_by_weight():
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform(-50, 60, 5000), rng.uniform(-180, 180, 5000)]
    points[7] = ABILENE
    weights = np.full(5000, -9.0)
    weights[7] = 5.0
    assert map_context(Posterior(points, weights))["country"][0][0] == "United States"


def test_the_month_is_not_on_the_map():
    with pytest.raises(ValueError, match="month"):
        map_context(posterior(abilene=1.0), features=("month",))
    with pytest.raises(ValueError, match="top must be"):
        map_context(posterior(abilene=1.0), top=0)


def test_levels_hold_the_mass_of_whole_units_each_inside_the_one_before():
    levels = place_levels(posterior(abilene=0.4, austin=0.3, tokyo=0.3))
    assert [level.level for level in levels] == list(UNIT_LEVELS)
    names = [level.name for level in levels]
    assert names[:3] == ["North America", "Northern America", "United States"]
    assert names[3:5] == ["Texas, United States", "Taylor County, Texas, United States"]
    assert names[5] == "Abilene, Taylor County, Texas, United States"
    shares = [level.probability for level in levels]
    assert shares == pytest.approx([0.7, 0.7, 0.7, 0.7, 0.4, 0.4], abs=0.01)
    assert levels[3].key == "Texas_US"


def test_the_kernel_counts_not_only_the_points():
    # the kernel around a point 40 km west of the middle of the border of Kansas and Missouri
    (level,) = [
        level
        for level in place_levels(Posterior(np.array([[38.3, -95.07]]), np.zeros(1), 20.0))
        if level.level == "state"
    ]
    assert level.name == "Kansas, United States"
    # 40 km are two standard deviations: Φ(2) = 97.7 % of a Gaussian lie on this side
    assert level.probability == pytest.approx(0.977, abs=0.02)


def test_the_mass_of_a_coast_is_that_of_its_land():
    honolulu = Posterior(np.array([[21.4, -157.9]]), np.zeros(1), 500.0)
    state = next(level for level in place_levels(honolulu) if level.level == "state")
    assert (state.name, state.probability) == ("Hawaii, United States", pytest.approx(1.0))
    assert place_levels(posterior(mid_atlantic=1.0)) == ()


def test_fixed_and_moving_points_give_the_same_levels():
    rng = np.random.default_rng(3)
    points, weights = rng.normal([33.0, -99.0], 4.0, (400, 2)), rng.normal(size=400)
    fixed, moving = (Posterior(points, weights, 30.0, fixed=fixed) for fixed in (True, False))
    for one, other in zip(place_levels(fixed)[:4], place_levels(moving)[:4], strict=True):
        assert one.name == other.name
        assert one.probability == pytest.approx(other.probability, abs=0.03)


def test_levels_are_reliable_where_the_posterior_is_true():
    """Truths drawn from each posterior lie in the named unit as often as it says."""
    rng = np.random.default_rng(1)
    places = Gazetteer.load().coordinates
    points = places[rng.choice(len(places), 300)]
    claimed, right = [], []
    for _ in range(300):
        answer = Posterior(points, rng.normal(size=300) * rng.uniform(1, 6), 25.0)
        truth = points[rng.choice(300, p=answer.weights)]
        truth = answer.samples(300 * 50, fixed=True).coordinates[
            rng.choice(50) + 50 * int(np.flatnonzero((points == truth).all(axis=1))[0])
        ]
        here = {
            level.level: level.key
            for level in place_levels(Posterior(truth[None], np.zeros(1), 0.01))
        }
        if not here:
            continue  # at sea
        for level in place_levels(answer):
            claimed.append(level.probability)
            right.append(here.get(level.level) == level.key)
    claimed, right = np.array(claimed), np.array(right)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (claimed >= low) & (claimed <= high)
        assert right[inside].mean() == pytest.approx(claimed[inside].mean(), abs=0.07)


def test_fixed_points_are_looked_up_once(monkeypatch):
    asked = []
    original = Gazetteer.nearest_in_degrees
    monkeypatch.setattr(
        Gazetteer,
        "nearest_in_degrees",
        lambda self, points: asked.append(len(points)) or original(self, points),
    )
    module._LOOKED_UP.clear()
    points = np.random.default_rng(5).uniform(20, 50, (350, 2))
    for seed in range(4):
        weights = np.random.default_rng(seed).normal(size=350)
        place_levels(Posterior(points, weights, 200.0, fixed=True))
    assert len(asked) == 1
    place_levels(Posterior(points, weights, 200.0))
    assert len(asked) == 2
    assert asked[1] <= module.MOVING_SAMPLES
