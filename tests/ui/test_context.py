"""Tests of the map's facts and of comparing a head with them."""

import math
from datetime import UTC, datetime

import pytest

from geoclip_core.data.vocabulary import Vocabulary
from ui.context import (
    Fact,
    absent_heads,
    climate_of_label,
    compare,
    doubt,
    effective_classes,
    facts_at,
    features_shown,
    month_fact,
    readable,
)

COUNTRIES = Vocabulary("country", ("FR", "US"), ("FR", "US"))


def test_facts_of_a_texan_town():
    facts = facts_at(32.44874, -99.73314)
    assert facts["climate"] == Fact("BSh", "BSh, arid, steppe, hot")
    assert facts["country"] == Fact("US", "United States")
    assert facts["state"] == Fact("Texas_US", "Texas")
    assert facts["county"] == Fact("Taylor County_Texas_US", "Taylor County")
    assert facts["city"].key == "Abilene_Taylor County_Texas_US"


def test_the_sea_has_no_climate():
    assert "climate" not in facts_at(0.0, -140.0)


def test_compare_finds_the_maps_class_at_any_rank():
    classes = [("FR", 0.7), ("US", 0.3)]
    verdict = compare(classes, Fact("US", "United States"), COUNTRIES)
    assert verdict.rank == 2
    assert verdict.probability == pytest.approx(0.3)
    assert compare(classes, Fact("FR", "France"), COUNTRIES).rank == 1
    assert compare(classes, Fact("FJ", "Fiji"), COUNTRIES).rank is None


@pytest.mark.parametrize(
    ("shares", "count"), [([1.0], 1), ([0.5, 0.5], 2), ([0.25] * 4, 4), ([1.0, 0.0], 1)]
)
def test_effective_classes_of_equal_probabilities(shares, count):
    assert effective_classes([("x", share) for share in shares]) == pytest.approx(count)


def test_effective_classes_of_unequal_probabilities():
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert effective_classes([("a", 0.9), ("b", 0.1)]) == pytest.approx(math.exp(entropy))


def test_doubt_describes_even_and_certain_heads():
    even = [("x", 1 / 30)] * 30
    sure = [("x", 0.999)] + [("y", 0.001 / 29)] * 29
    assert doubt(even) == "Nearly guessing (as if choosing among 30 of 30)"
    assert doubt(sure) == "Very sure (one of 30 classes has most of the probability)"


def test_month_is_read_from_the_exif_time():
    assert month_fact(datetime(2021, 7, 3, tzinfo=UTC))["month"].label == "July"
    assert month_fact(None) == {}


def test_features_and_absent_heads():
    assert features_shown({"country": 1}, {"climate": 1}) == ["climate", "country"]
    assert absent_heads({"climate": 1}) == ["month", "state", "county", "city"]


def test_labels_are_made_readable():
    assert readable("country", "FJ") == "Fiji"
    assert readable("state", "FJ") == "FJ"
    assert climate_of_label("Cfa, temperate").symbol == "Cfa"
    assert climate_of_label("unknown (water or no data)") is None
