"""Tests of the game's rules: regions, drawing of rounds, scores, standings and exports."""

import dataclasses
import io
import json
import math

import numpy as np
import pandas as pd
import pytest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.tables import csv_text, read_csv, without_formula
from geoclip_core.demo.dataset import write_demo
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import GEOSCORE_SCALE_KM, destination, haversine_km
from tests.ui.conftest import ABIDJAN, ABILENE, SUVA
from ui.play import (
    TABLE_COLUMNS,
    WORLD,
    YOU,
    Game,
    Region,
    Round,
    draw_rows,
    games_json,
    guess_table,
    place_keys,
    places_at,
    region_view,
    regions,
    representative,
    rows_in,
    standings,
    total,
)

EVERYWHERE = Region(WORLD, "", "Whole world", 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read_dataset(write_demo(tmp_path_factory.mktemp("d") / "demo", 200, metadata_only=True))


def test_regions_are_those_of_the_photos(dataset):
    keys = place_keys(dataset)
    found = {(one.level, one.key): one for one in regions(keys)}
    assert found[WORLD, ""].photos == 200
    assert found["continent", "North America"].photos == 200
    assert found["country", "US"].name == "United States"
    states = dataset.table["state_key"].value_counts()
    counted = {key: one.photos for (level, key), one in found.items() if level == "state"}
    assert counted == dict(states)
    assert found["state", "Texas_US"].label == f"Texas, United States ({states['Texas_US']} photos)"
    texas = rows_in(keys, found["state", "Texas_US"])
    assert set(dataset.table["state"].iloc[texas]) == {"Texas"}
    assert len(rows_in(keys, found[WORLD, ""])) == 200


def test_what_a_dataset_does_not_say_is_looked_up_on_the_map(dataset):
    whole = place_keys(dataset)
    table = dataset.table.copy()
    table.loc[table.index[::2], ["country_key", "state_key"]] = pd.NA
    table.loc[table.index[1], "state_key"] = pd.NA
    found = place_keys(dataclasses.replace(dataset, table=table))
    assert found["country"].equals(whole["country"])
    assert (found["state"] == whole["state"]).mean() > 0.95  # not beside the border of a state
    assert found["continent"].notna().all()


def test_places_of_own_photos():
    keys = places_at(np.array([ABILENE, ABIDJAN, SUVA]))
    assert keys["continent"].tolist() == ["North America", "Africa", "Oceania"]
    assert keys["country"].tolist() == ["US", "CI", "FJ"]


@pytest.mark.parametrize(
    ("level", "key", "inside"),
    [
        ("state", "Texas_US", ABILENE),
        ("country", "US", (61.2, -149.9)),
        ("country", "FJ", SUVA),
        ("continent", "Oceania", SUVA),
        ("continent", "Africa", ABIDJAN),
        ("state", "Nowhere_CI", ABIDJAN),
    ],
)
def test_the_map_starts_at_the_region_wherever_its_photos_are(level, key, inside):
    view = region_view(Region(level, key, "a name", 1))
    assert view == region_view(Region(level, key, "a name", 1000))
    (south, west), (north, east) = view[0]
    assert south <= inside[0] <= north
    assert west <= (inside[1] - west) % 360 + west <= east
    assert east - west < 200


@pytest.mark.parametrize("region", [EVERYWHERE, Region("country", "XX", "?", 1)])
def test_the_map_of_an_unknown_region_is_the_world(region):
    assert region_view(region) == ([], 0.0)


def test_a_typed_place_is_a_point_in_it():
    gazetteer = Gazetteer.load()
    for name, country in (("Chile", "CL"), ("Fiji", "FJ"), ("Paris, France", "FR")):
        point = representative(gazetteer.find(name).points)
        assert gazetteer.places([point])[0].country == country
    assert representative(gazetteer.find("36.2, -37.16").points) == (36.2, -37.16)


def test_rounds_are_drawn_without_repeats_and_by_the_seed():
    rows = np.arange(100, 140)
    drawn = [draw_rows(rows, seed, lambda _: True) for seed in range(50)]
    assert all(len(set(one)) == 5 and set(one) <= set(rows.tolist()) for one in drawn)
    assert drawn[7] == draw_rows(rows, 7, lambda _: True)
    assert len(set(map(tuple, drawn))) == 50
    assert {row for one in drawn for row in one} == set(rows.tolist())


def test_photos_of_earlier_games_come_last():
    rows = np.arange(12)
    seen = frozenset(range(9))
    drawn = draw_rows(rows, 3, lambda _: True, seen=seen)
    assert set(drawn) >= {9, 10, 11}
    assert len(set(drawn)) == 5
    assert len(draw_rows(rows, 3, lambda _: True, seen=frozenset(range(12)))) == 5


def test_photos_that_cannot_be_shown_are_not_drawn_and_asked_once():
    asked = []

    def usable(row):
        asked.append(row)
        return row % 10 == 0

    drives = ["same"] * 40
    assert sorted(draw_rows(np.arange(40), 1, usable, drives=drives)) == [0, 10, 20, 30]
    assert len(asked) == len(set(asked)) == 40
    assert draw_rows(np.arange(40), 1, lambda _: False) == []
    assert draw_rows(np.array([], dtype=int), 1, lambda _: True) == []


def test_photos_of_one_drive_are_drawn_only_if_others_do_not_suffice():
    drives = [f"drive {row // 8}" for row in range(48)]
    for seed in range(20):
        drawn = draw_rows(np.arange(48), seed, lambda _: True, drives=drives)
        assert len({drives[row] for row in drawn}) == 5
        drawn = draw_rows(np.arange(16), seed, lambda _: True, drives=drives)
        assert len(set(drawn)) == 5
        assert len({drives[row] for row in drawn}) == 2
    single = draw_rows(np.arange(48), 1, lambda _: True, drives=[pd.NA, None, math.nan] * 16)
    assert len(set(single)) == 5


def played(truth, guess, **answers):
    return Round("p", "p.jpg", truth, guess, confirmed=True, answers=answers)


def test_scores_are_geoscores_of_the_distance():
    away = tuple(map(float, destination(ABILENE, 77.0, GEOSCORE_SCALE_KM)))
    one = played(ABILENE, ABILENE, mini=away)
    assert one.score(YOU) == pytest.approx(5000)
    assert one.score("mini") == pytest.approx(5000 / math.e, rel=1e-6)
    assert one.distance_km("mini") == pytest.approx(GEOSCORE_SCALE_KM)
    assert one.score("other") is None
    assert total([one, one], "mini") == pytest.approx(10_000 / math.e, rel=1e-6)


def test_a_pin_counts_once_it_is_confirmed():
    one = Round("p", "p.jpg", ABILENE, SUVA)
    assert one.score(YOU) is None
    assert Game(1, "demo", EVERYWHERE, [one]).played == []
    one.confirmed = True
    assert one.score(YOU) < 100


def test_the_last_of_click_and_typed_place_is_the_guess():
    gazetteer = Gazetteer.load()
    one = Round("p", "p.jpg", ABILENE)
    suva = gazetteer.find("Suva, Fiji")
    one.type(suva)
    assert haversine_km(one.guess, SUVA) < 30
    one.click(ABILENE)
    assert one.guess == ABILENE
    one.type(suva)
    one.type(suva)  # as every rerun of the page does
    assert haversine_km(one.guess, SUVA) < 30
    assert one.typed == one.guess


def test_standings_compare_on_the_same_rounds():
    first = Game(1, "demo", EVERYWHERE, [played(ABILENE, ABILENE, a=SUVA), played(SUVA, ABIDJAN)])
    second = Game(2, "demo", EVERYWHERE, [played(ABIDJAN, SUVA, a=ABIDJAN, b=ABIDJAN)])
    found = {one.player: one for one in standings([first, second], ["a", "b", "never"])}
    assert set(found) == {YOU, "a", "b"}
    assert found[YOU].rounds == 3
    assert found["a"].rounds == 2
    assert found["a"].yours == pytest.approx(total([*first.rounds[:1], *second.rounds], YOU))
    assert found["b"].mean == pytest.approx(5000)
    assert next(iter(found)) == "b"
    assert standings([], ["a"]) == []


HOSTILE = '=HYPERLINK("http://x","y"), <b>\n@'


@pytest.fixture
def games():
    one = played(ABILENE, SUVA, **{"+model": ABIDJAN})
    one.name = HOSTILE
    waiting = Round("q", "q.jpg", ABIDJAN, SUVA)
    return [Game(1, "-set", EVERYWHERE, [one, waiting]), Game(2, "demo", EVERYWHERE, [])]


def test_tables_hold_one_row_per_round_and_player_and_no_formulas(games):
    table = guess_table(games)
    assert tuple(table.columns) == TABLE_COLUMNS
    assert table["player"].tolist() == [YOU, "+model"]
    assert table["distance_km"][0] == pytest.approx(haversine_km(ABILENE, SUVA), abs=0.001)
    assert "Abilene" in table["true_place"][0]
    text = csv_text(table)
    cells = pd.read_csv(io.StringIO(text), dtype=str)
    assert cells["photo"][0] == without_formula(HOSTILE) != HOSTILE
    assert cells["photos"][0] == "'-set"
    assert cells["player"][1] == "'+model"
    assert cells["latitude"][0] == str(round(SUVA[0], 6))  # a number stays one
    assert read_csv(text.encode())["photo"].iloc[0] == HOSTILE
    assert len(csv_text(guess_table([])).splitlines()) == 1


def test_json_holds_every_game_with_its_rounds(games):
    first, second = json.loads(games_json(games))
    assert first["game"] == 1
    assert first["rounds"][0]["photo"] == HOSTILE
    assert [guess["player"] for guess in first["rounds"][0]["guesses"]] == [YOU, "+model"]
    assert first["geoscore"][YOU] == pytest.approx(games[0].rounds[0].score(YOU), abs=0.1)
    assert len(first["rounds"]) == 1
    assert second["rounds"] == []
    assert json.loads(games_json([])) == []
