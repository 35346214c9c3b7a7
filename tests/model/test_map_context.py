import numpy as np
import pytest

from geoclip_core.model.map_context import map_context
from geoclip_core.model.posterior import Posterior

ABILENE, AUSTIN, TOKYO, MID_ATLANTIC = (32.45, -99.73), (30.27, -97.74), (35.68, 139.7), (30, -45)


def posterior(**weights):
    places = [globals()[name.upper()] for name in weights]
    return Posterior(np.array(places, dtype=float), np.log(list(weights.values())))


def test_labels_are_weighted_by_the_posterior():
    context = map_context(posterior(abilene=0.5, austin=0.3, tokyo=0.2))
    assert list(context) == ["climate", "country", "state", "county", "city"]
    assert [label for label, _ in context["country"]] == ["United States", "Japan"]
    assert [p for _, p in context["country"]] == pytest.approx([0.8, 0.2])
    assert context["state"][0][0] == "Texas, United States"
    assert context["state"][0][1] == pytest.approx(0.8)
    assert context["city"][0][0] == "Abilene, Taylor County, Texas, United States"
    assert context["climate"][0] == ("BSh, arid, steppe, hot", pytest.approx(0.5))


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
