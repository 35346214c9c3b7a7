"""Hints: from names to classes and regions, and what they do to an answer."""

import numpy as np
import pytest
import torch

from geoclip_core.data.vocabulary import Vocabulary, climate_vocabulary, month_vocabulary
from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.errors import HintError, PlaceError
from geoclip_core.hints import parse_given, read_hints
from geoclip_core.model.context_heads import ContextHeads, ContextJoin, overruled
from geoclip_core.model.map_context import inside_region, map_context, place_levels
from geoclip_core.model.posterior import Posterior

STATES = Vocabulary("state", ("Texas_US", "Idaho_US"), ("Texas", "Idaho"))
COUNTIES = Vocabulary(
    "county",
    ("Travis County_Texas_US", "Taylor County_Texas_US", "Ada County_Idaho_US"),
    ("Travis County", "Taylor County", "Ada County"),
    (0, 0, 1),
    "state",
)
WORDS = {"state": STATES, "county": COUNTIES, "month": month_vocabulary()}


class TestReading:
    def test_names_codes_and_numbers(self):
        hints = read_hints(
            {"country": "us", "state": "Texas", "climate": "bsk", "month": 1}, WORDS, "tiny"
        )
        assert hints.words == "country United States, state Texas, United States, climate BSk, " + (
            "month January"
        )
        assert hints.heads == {"state": 0, "month": 0}
        assert hints.region.climate == climate_vocabulary().keys.index("BSk")
        assert [level for level, _ in hints.region.units] == ["country", "state"]
        assert read_hints({"month": "march"}, WORDS, "tiny").region is None

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"planet": "Mars"}, "there is no hint 'planet'"),
            ({"climate": "Zzz"}, "there is no climate 'Zzz'; the classes are Af, "),
            ({"month": 13}, "there is no month 13"),
            ({"month": "ju"}, "there is no month 'ju'"),
        ],
    )
    def test_what_is_not_understood_is_refused(self, given, words):
        with pytest.raises(HintError, match=words):
            read_hints(given, WORDS, "tiny")

    def test_places_are_looked_up_at_their_level(self):
        with pytest.raises(PlaceError, match="no country is called 'Chily': did you mean Chile"):
            read_hints({"country": "Chily"}, WORDS, "tiny")
        with pytest.raises(PlaceError, match="more than one county"):
            read_hints({"county": "Washington County"}, WORDS, "tiny")
        found = read_hints({"county": "Ada County, Idaho"}, WORDS, "tiny")
        assert found.heads == {"county": 2}

    def test_keys_name_classes_and_places(self):
        found = read_hints({"state": "Texas_US", "city": "Paris_Paris_Ile-de-France_FR"}, {}, "x")
        assert [level for level, _ in found.region.units] == ["state", "town"]
        assert found.labels["state"] == "Texas, United States"
        # a class that the map does not know replaces what the head reads, and nothing else
        words = {"state": Vocabulary("state", ("Mordor_XX", "Texas_US"), ("Mordor", "Texas"))}
        found = read_hints({"state": "Mordor_XX"}, words, "tiny")
        assert (found.labels, found.heads, found.region) == (
            {"state": "Mordor"},
            {"state": 0},
            None,
        )
        assert read_hints({"state": "Texas_US"}, words, "tiny").heads == {"state": 1}

    def test_the_month_needs_a_head(self):
        with pytest.raises(HintError, match="tiny does not read the month"):
            read_hints({"month": 1}, {"state": STATES}, "tiny")

    def test_the_command_line_form(self):
        assert parse_given(("country=Chile", " Month = 1")) == {"country": "Chile", "month": "1"}
        for wrong in (("country",), ("country=",), ("month=1", "month=2")):
            with pytest.raises(HintError, match="--given"):
                parse_given(wrong)


class TestHeads:
    def logits(self):
        return {
            "state": torch.tensor([[0.1, 2.0]]),
            "county": torch.tensor([[1.0, 0.0, 3.0]]),
            "month": torch.zeros(1, 12),
        }

    def test_a_state_leaves_its_counties(self):
        result = overruled(self.logits(), {"state": 0}, WORDS)
        assert result["state"].softmax(1)[0].tolist() == pytest.approx([1, 0], abs=1e-4)
        counties = result["county"].softmax(1)[0]
        assert counties[2] < 1e-4
        # what the head said about the two counties of Texas is kept: e¹ to e⁰
        assert float(counties[0] / counties[1]) == pytest.approx(np.e, rel=1e-3)
        assert torch.equal(result["month"], self.logits()["month"])

    def test_a_county_implies_its_state(self):
        result = overruled(self.logits(), {"county": 2}, WORDS)
        assert result["state"].softmax(1)[0].tolist() == pytest.approx([0, 1], abs=1e-4)

    def test_contradictions_are_refused(self):
        with pytest.raises(HintError, match="contradicts"):
            overruled(self.logits(), {"state": 0, "county": 2}, WORDS)

    def test_a_neutral_join_is_that_of_equal_logits(self):
        torch.manual_seed(0)
        join = ContextJoin(WORDS, 4)
        heads = ContextHeads(5, WORDS)
        joined = join(heads(torch.randn(3, 5)))
        even = {feature: torch.zeros(3, len(words)) for feature, words in WORDS.items()}
        assert torch.allclose(join.neutral(joined), join(even), atol=1e-5)


class TestMap:
    def posterior(self, **changes):
        # Santiago and Helsinki, half of the mass each, and a kernel that crosses borders
        points = np.array([(-33.4, -70.6), (60.2, 24.9)])
        return Posterior(points, np.log([0.5, 0.5]), **({"bandwidth_km": 300.0} | changes))

    def region(self, **given):
        return read_hints(given, {}, "tiny").region

    def test_all_mass_lies_in_the_given_country(self):
        region = self.region(country="Argentina")
        inside = inside_region(self.posterior(), region)
        places = Gazetteer.load().places(inside.points)
        assert {place.country for place in places} == {"AR"}
        levels = {level.level: level for level in place_levels(inside, region)}
        assert levels["country"].name == "Argentina"
        assert levels["country"].probability == pytest.approx(1.0)
        # what was near Santiago stays near it: Mendoza, not Patagonia
        assert levels["state"].name == "Mendoza, Argentina"
        assert map_context(inside, features=("country",), region=region) == {
            "country": [("Argentina", pytest.approx(1.0))]
        }

    def test_a_condition_is_that_of_probability(self):
        """P(Finland | country is Finland or ...) keeps the shares of what is inside."""
        points = np.array([(60.2, 24.9), (65.0, 25.5), (-33.4, -70.6)])
        weights = np.log([0.3, 0.1, 0.6])
        inside = inside_region(Posterior(points, weights, 20.0), self.region(country="FI"))
        north = inside.weights[inside.points[:, 0] > 63].sum()
        assert north == pytest.approx(0.25, abs=0.01)

    def test_a_country_without_mass_still_has_an_answer(self):
        far = inside_region(self.posterior(bandwidth_km=10.0), self.region(country="New Zealand"))
        latitude, longitude = far.mode()
        assert Gazetteer.load().places((latitude, longitude))[0].country == "NZ"

    def test_climates_are_those_of_the_map(self):
        region = self.region(climate="Csb", country="Chile")
        inside = inside_region(self.posterior(), region)
        symbols = {
            climate_vocabulary().keys[i] for i in ClimateRaster.load().indices(inside.points)
        }
        assert symbols == {"Csb"}

    def test_what_is_nowhere_is_none(self):
        assert inside_region(self.posterior(), self.region(climate="Af", country="Finland")) is None
