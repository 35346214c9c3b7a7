"""What a synthetic scene is told, and how its climate looks on its day: colours and shares."""

import dataclasses
import math

import numpy as np

from geoclip_core.data.scene_places import Colour, pick


@dataclasses.dataclass(frozen=True)
class SceneFacts:
    """What a scene shows.

    Attributes:
        photo_id: Seeds the chance of this photo, together with the set's seed.
        latitude: Degrees.
        longitude: Degrees.
        climate: Symbol such as "Cfa".
        day: Day of the year, 1-366.
        state: Key of the state.
        county: Key of the county.
        city: Key of the city.
    """

    photo_id: str
    latitude: float
    longitude: float
    climate: str
    day: int
    state: str
    county: str
    city: str


@dataclasses.dataclass(frozen=True)
class Season:
    """How a climate looks on a day: degrees Celsius, and shares from 0 to 1."""

    temperature: float
    humidity: float
    green: float
    autumn: float
    bloom: float
    snow: float
    sun: float
    day: float


def season_of(facts: SceneFacts, chance: np.random.Generator) -> Season:
    """What the facts look like, with the chance of the weather."""
    symbol = facts.climate if facts.climate[:1] in "ABCDE" else "Cfb"
    letter, second, last = symbol[0], symbol[1:2], symbol[-1:]
    # The weather runs ahead of the calendar or behind it, so months blur into their neighbours.
    day = facts.day + chance.normal(0, 6)
    year = math.cos(2 * math.pi * (day - 200) / 365)
    base = {"A": 26, "B": 17 if last == "h" else 10, "C": 15, "D": 6, "E": -6}[letter]
    swing = {"A": 2, "B": 13, "C": 9, "D": 16, "E": 8}[letter] * (1 if facts.latitude >= 0 else -1)
    base += {"a": 2, "b": -1, "c": -4}.get(last, 0) - 0.35 * (abs(facts.latitude) - 38)
    temperature = base + swing * year + chance.normal(0, 1.6)
    humidity = {"W": 0.02, "S": 0.25, "f": 0.95, "m": 1.0, "w": 0.55, "s": 0.5}.get(second, 0.4)
    summer_dry = 0.5 if second == "s" and year > 0.3 else 0.0
    green = clip((temperature - 3) / 11) * (0.12 + 0.88 * humidity) - summer_dry
    return Season(
        temperature=temperature,
        humidity=humidity,
        green=clip(green + chance.normal(0, 0.04)),
        autumn=bump(day, 288, 24),
        bloom=bump(day, 118, 26),
        snow=clip((1.5 - temperature) / 5) * chance.uniform(0.6, 1.0),
        sun=0.5 + 0.5 * year,
        day=(day - 1) % 365 + 1,
    )


def soil_colour(facts: SceneFacts) -> Colour:
    """Bare soil: by state, redder towards the south."""
    soils = ((196, 168, 124), (176, 112, 78), (150, 132, 104), (206, 188, 152), (128, 104, 82))
    here = soils[pick(facts.state, "soil", len(soils))]
    return mix(here, (190, 120, 84), clip((-facts.latitude + 36) / 12))


def bump(day: float, centre: float, width: float) -> float:
    """A bell around a day of the year, 1 at its centre."""
    away = (day - centre + 182.5) % 365 - 182.5
    return math.exp(-0.5 * (away / width) ** 2)


def clip(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """The value within limits."""
    return min(max(float(value), low), high)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour between two, at a share from 0 to 1."""
    share = clip(share)
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, lighter or darker by a factor."""
    return tuple(min(255, max(0, round(part * factor))) for part in colour)
