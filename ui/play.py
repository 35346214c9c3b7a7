"""The game of the Play page: photos drawn from a region, guesses, scores, and their tables.

Nothing here draws; ``ui/play_page.py`` does.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.vocabulary import class_name
from geoclip_core.earth.gazetteer import Gazetteer, NamedPlace, country_name, part_of_the_world
from geoclip_core.earth.sphere import (
    geoscore,
    haversine_km,
    longitude_near,
    middle_longitude,
    spherical_mean,
)
from geoclip_core.files import escaped
from ui.geometry import Coordinate

ROUNDS = 5
"""Rounds of a game; fewer if the region has fewer photos."""

YOU = "You"
"""The visitor, beside the names of models."""

WORLD = "world"
REGION_LEVELS = (WORLD, "continent", "country", "state")

TABLE_COLUMNS = (
    "game",
    "round",
    "photos",
    "region",
    "photo",
    "true_latitude",
    "true_longitude",
    "true_place",
    "player",
    "latitude",
    "longitude",
    "distance_km",
    "geoscore",
)


# Regions ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """A part of the world that has photos."""

    level: str
    """One of `REGION_LEVELS`."""
    key: str
    """As in ``Units.keys`` of the gazetteer; "" for the world."""
    name: str
    photos: int

    @property
    def label(self) -> str:
        """The name with the number of photos: "Texas, United States (167 photos)"."""
        return f"{self.name} ({self.photos:,} photo{'' if self.photos == 1 else 's'})"


def place_keys(dataset: PhotoDataset) -> pd.DataFrame:
    """Return continent, country and state of every photo of a dataset, as keys; NA if unknown.

    What its table lacks is looked up on the map.
    """
    known = dataset.table[["country_key", "state_key"]].rename(columns=lambda n: n[: -len("_key")])
    looked_up = np.flatnonzero(known.isna().any(axis=1))
    found = places_at(dataset.coordinates[looked_up]).set_index(known.index[looked_up])
    country = known["country"].fillna(found["country"])
    agreed = found["state"].where(found["country"].eq(country.reindex(found.index)))
    return with_continents(country, known["state"].fillna(agreed))


def places_at(coordinates: Any) -> pd.DataFrame:
    """Return continent, country and state of coordinates (n, 2), as keys; NA if unknown."""
    frame = Gazetteer.load().frame(coordinates)
    state = frame["unique_region"].where(frame["region"].notna())
    return with_continents(frame["unique_country"], state)


def with_continents(country: pd.Series, state: pd.Series) -> pd.DataFrame:
    """Return columns continent, country, state."""
    world = {code: part_of_the_world(code) for code in country.dropna().unique()}
    continents = {code: part[0] for code, part in world.items() if part is not None}
    return pd.DataFrame({"continent": country.map(continents), "country": country, "state": state})


def regions(keys: pd.DataFrame) -> list[Region]:
    """Return the regions of photos with these keys, largest parts of the world first, by name."""
    found = [Region(WORLD, "", "Whole world", len(keys))]
    for level in REGION_LEVELS[1:]:
        counts = keys[level].value_counts()
        units = [
            Region(level, str(k), region_name(level, str(k)), int(n)) for k, n in counts.items()
        ]
        found += sorted(units, key=lambda region: region.name)
    return found


def region_name(level: str, key: str) -> str:
    """Return the name of a region: "Texas, United States" of the state "Texas_US"."""
    if level == "country":
        return country_name(key)
    if level == "state":
        _, _, code = key.rpartition("_")
        return f"{class_name('state', key)}, {country_name(code)}" if code else key
    return key


def rows_in(keys: pd.DataFrame, region: Region) -> NDArray[np.int64]:
    """Return the positions (k,) of the photos in a region."""
    if region.level == WORLD:
        return np.arange(len(keys))
    return np.flatnonzero(keys[region.level].eq(region.key).fillna(False).to_numpy(dtype=bool))


def region_view(region: Region) -> tuple[list[Coordinate], float]:
    """Return two corners of a region, and the longitude to centre the map on.

    They depend on the region's places, not on the photos, whose places must not be given away. No
    corners mean the whole world.
    """
    if region.level == WORLD:
        return [], 0.0
    gazetteer = Gazetteer.load()
    units = gazetteer.units(region.level)
    if region.key not in units.keys:
        _, _, code = region.key.rpartition("_")
        larger = Region("country", code, country_name(code), 0)
        return region_view(larger) if region.level == "state" and code else ([], 0.0)
    points = gazetteer.coordinates[units.of_place == units.keys.index(region.key)]
    latitudes, longitudes = points.T.tolist()
    middle = middle_longitude(longitudes)
    near = [longitude_near(longitude, middle) for longitude in longitudes]
    return [(min(latitudes), min(near)), (max(latitudes), max(near))], middle


def representative(points: NDArray[np.float64]) -> Coordinate:
    """Return the one of the points (m, 2) of a place that is nearest to its middle."""
    distance = haversine_km(points, spherical_mean(points))
    latitude, longitude = points[int(np.argmin(distance))]
    return float(latitude), float(longitude)


def draw_rows(
    rows: NDArray[np.int64],
    seed: int,
    usable: Callable[[int], bool],
    *,
    count: int = ROUNDS,
    seen: frozenset[int] = frozenset(),
    drives: Sequence[object] | None = None,
) -> list[int]:
    """Draw rows at random without repeats; the same seed gives the same ones.

    Rows that were not seen come first; among them rows of different drives, because the photos of
    a drive show almost the same place.

    Args:
        rows: Positions (k,) to draw from.
        seed: Determines the draw.
        usable: Whether the photo of a row can be shown; asked once, only of rows that are drawn.
        count: Most rows to draw.
        seen: Rows of earlier games.
        drives: The drive of each row of the whole table; missing values are drives of their own.
    """
    order = np.random.default_rng(seed).permutation(rows).tolist()
    drawn: list[int] = []
    taken: set[object] = set()
    for part in ([row for row in order if row not in seen], [row for row in order if row in seen]):
        waiting: list[int] = []
        for row in part:
            if len(drawn) == count:
                return drawn
            drive = None if drives is None or pd.isna(drives[row]) else drives[row]
            if drive is not None and drive in taken:
                waiting.append(row)
            elif usable(row):
                drawn.append(row)
                taken.add(drive)
        for row in waiting:
            if len(drawn) == count:
                return drawn
            if usable(row):
                drawn.append(row)
    return drawn


# Games --------------------------------------------------------------------------------------------


@dataclass
class Round:
    """One photo of a game, and where the players place it."""

    photo: str
    """Path in the dataset, or digest of one of the visitor's photos."""
    name: str
    """Name of the photo, for the time after the guess."""
    truth: Coordinate
    guess: Coordinate | None = None
    """The visitor's pin, which may still be moved unless ``confirmed``."""
    typed: Coordinate | None = None
    """The latest guess that was typed; the map moves there."""
    typed_place: str = ""
    """The name of that place; "" once the map has been clicked."""
    confirmed: bool = False
    answers: dict[str, Coordinate] = field(default_factory=dict)
    """Name of a model -> its guess."""
    failures: dict[str, str] = field(default_factory=dict)
    """Name of a model -> why it has no guess."""

    def click(self, point: Coordinate) -> None:
        """Move the pin to a point of the map."""
        self.guess, self.typed_place = point, ""

    def type(self, place: NamedPlace) -> None:
        """Move the pin to a place that was typed, once."""
        if place.name != self.typed_place:
            self.guess = self.typed = representative(place.points)
            self.typed_place = place.name

    def guess_of(self, player: str) -> Coordinate | None:
        """Return the guess of a model, or the confirmed one of `YOU`."""
        if player == YOU:
            return self.guess if self.confirmed else None
        return self.answers.get(player)

    def distance_km(self, player: str) -> float | None:
        """Return how far a player's guess is from the truth; None without a guess."""
        guess = self.guess_of(player)
        return None if guess is None else float(haversine_km(guess, self.truth))

    def score(self, player: str) -> float | None:
        """Return the GeoScore of a player's guess, from 0 to 5,000; None without a guess."""
        distance = self.distance_km(player)
        return None if distance is None else float(geoscore(distance))


@dataclass
class Game:
    """Rounds with photos of one region."""

    number: int
    photos: str
    """Name of the dataset, or "my photos"."""
    region: Region
    rounds: list[Round]
    root: Path | None = None
    """Folder of the dataset; None for the visitor's own photos."""
    synthetic: bool = False
    """Whether the photos are drawn scenes."""
    at: int = 0
    """Index of the current round; the number of rounds when the game is over."""

    @property
    def current(self) -> Round | None:
        """The round that is played, or None when the game is over."""
        return self.rounds[self.at] if self.at < len(self.rounds) else None

    @property
    def played(self) -> list[Round]:
        """The rounds with a confirmed guess."""
        return [one for one in self.rounds if one.confirmed]

    def leave_out(self) -> None:
        """Remove the current round, whose photo cannot be shown."""
        del self.rounds[self.at]


def total(rounds: Sequence[Round], player: str) -> float:
    """Return the sum of a player's GeoScores."""
    return sum(one.score(player) or 0.0 for one in rounds)


@dataclass(frozen=True)
class Standing:
    """A player's GeoScore over rounds, beside the visitor's on the same rounds."""

    player: str
    rounds: int
    total: float
    mean: float
    median_km: float
    yours: float
    """Your total on the rounds that this player has guessed."""


def standings(games: Sequence[Game], models: Sequence[str]) -> list[Standing]:
    """Return the standing of the visitor and of each model that has guessed, highest mean first."""
    rounds = [one for game in games for one in game.played]
    found = []
    for player in (YOU, *models):
        own = [one for one in rounds if one.guess_of(player) is not None]
        if own:
            reached = total(own, player)
            distances = [float(haversine_km(one.guess_of(player), one.truth)) for one in own]
            median = float(np.median(distances))
            mean = reached / len(own)
            found.append(Standing(player, len(own), reached, mean, median, total(own, YOU)))
    return sorted(found, key=lambda one: -one.mean)


def players_of(games: Sequence[Game]) -> list[str]:
    """Return you and every model that has guessed in one of the games."""
    rounds = [one for game in games for one in game.played]
    return list(dict.fromkeys([YOU, *(model for one in rounds for model in one.answers)]))


# Exports ------------------------------------------------------------------------------------------


def guess_table(games: Sequence[Game]) -> pd.DataFrame:
    """Return one row per round and player with `TABLE_COLUMNS`; distances in km."""
    records = []
    for game in games:
        truths = np.array([one.truth for one in game.played]).reshape(-1, 2)
        places = Gazetteer.load().places(truths)
        for number, (one, place) in enumerate(zip(game.played, places, strict=True), 1):
            for player in players_of(games):
                guess, distance = one.guess_of(player), one.distance_km(player)
                if guess is None or distance is None:
                    continue
                truth = round(one.truth[0], 6), round(one.truth[1], 6)
                shown = round(guess[0], 6), round(guess[1], 6)
                about = (game.number, number, game.photos, game.region.name, one.name)
                score = round(float(geoscore(distance)), 1)
                row = (*about, *truth, place.label, player, *shown, round(distance, 3), score)
                records.append(row)
    return pd.DataFrame(records, columns=list(TABLE_COLUMNS))


def games_json(games: Sequence[Game]) -> str:
    """Return the games as JSON: a list of games with their rounds and the guess of each player."""
    table = guess_table(games)
    found = []
    for game in games:
        rows = table[table["game"] == game.number]
        rounds = []
        for number, part in rows.groupby("round", sort=True):
            first = part.iloc[0]
            guesses = part[["player", "latitude", "longitude", "distance_km", "geoscore"]]
            rounds.append(
                {
                    "round": int(str(number)),
                    "photo": first["photo"],
                    "latitude": first["true_latitude"],
                    "longitude": first["true_longitude"],
                    "place": first["true_place"],
                    "guesses": guesses.to_dict("records"),
                }
            )
        totals = {
            player: round(total(game.played, player), 1)
            for player in players_of([game])
            if game.played
        }
        about = {"game": game.number, "photos": game.photos, "region": game.region.name}
        found.append({**about, "rounds": rounds, "geoscore": totals})
    return escaped(json.dumps(found, indent=2, ensure_ascii=False)) + "\n"
