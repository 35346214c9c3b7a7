"""Write captions for contrastive pretraining: where, when and in which climate a photo was taken.

Names are used as the dataset has them ("Ada County", "Carson City"); unknown facts are left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.data import DEFAULT_FEATURES
from geoclip_core.data.vocabulary import MONTHS, climate_vocabulary
from geoclip_core.earth.gazetteer import country_name

OPENING = "A street photo"
DROP_PROBABILITY = 0.3
_PLACES = ("city", "county", "state", "country")  # as an address is written

_DRY = {"W": "desert", "S": "steppe"}
_TROPICAL = {"f": "rainforest", "m": "monsoon", "w": "savannah", "s": "savannah"}
_SUMMERS = {"a": "hot summers", "b": "warm summers", "c": "cold summers"}


def caption(
    row: Mapping[str, Any] | pd.Series,
    rng: np.random.Generator | None = None,
    *,
    features: Sequence[str] = DEFAULT_FEATURES,
    drop_probability: float = DROP_PROBABILITY,
) -> str:
    """Return one sentence about a photo.

    Without `rng` the caption states every known fact: "A street photo from Abilene, Taylor County,
    Texas, taken in July, in a temperate climate with no dry season and hot summers." With it, facts
    are dropped at random, at least one is kept, and the phrases are shuffled.

    Args:
        row: A row of a dataset's table, or any mapping with some of climate (class index), month
            (0-11), city, county, state, country (two-letter code).
        rng: Random generator, for training.
        features: The features that may be mentioned.
        drop_probability: Probability that a fact (one place name, the month, the climate) is
            dropped.
    """
    known = _known(row, features)
    if rng is not None:
        known = _dropped(known, rng, drop_probability)
    phrases = _phrases(known)
    if rng is not None:
        phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    # No phrase ends with a comma, so that the phrases can be in any order.
    return " ".join([OPENING, ", ".join(phrases)]).strip() + "."


def captions(table: pd.DataFrame, *, features: Sequence[str] = DEFAULT_FEATURES) -> list[str]:
    """Return the full captions of the n rows of a dataset's table."""
    columns = [name for name in ("climate", "month", *_PLACES) if name in table]
    rows = zip(*(table[name].astype(object) for name in columns), strict=True)
    return [caption(dict(zip(columns, row, strict=True)), features=features) for row in rows]


def climate_phrase(symbol: str) -> str:
    """Describe a Köppen–Geiger symbol: "Csa" is "a temperate climate with dry, hot summers".

    Raises:
        ValueError: there is no such symbol.
    """
    if symbol not in climate_vocabulary().keys or not symbol[:1].isupper():
        raise ValueError(f"{symbol!r} is not a Köppen–Geiger class")
    letter, rest = symbol[0], symbol[1:]
    if letter == "A":
        return f"a tropical {_TROPICAL[rest]} climate"
    if letter == "E":
        return "a polar tundra climate" if rest == "T" else "a polar ice-cap climate"
    if letter == "B":
        return f"a {'hot' if rest[1] == 'h' else 'cold'} {_DRY[rest[0]]} climate"
    kind = "temperate" if letter == "C" else "cold"
    season, heat = rest[0], rest[1]
    if season == "s" and heat in _SUMMERS:
        return f"a {kind} climate with dry, {_SUMMERS[heat]}"
    if season == "w" and heat == "d":
        return f"a {kind} climate with dry, very cold winters"
    dry = {"s": "dry summers", "w": "dry winters", "f": "no dry season"}[season]
    return f"a {kind} climate with {dry} and {_SUMMERS.get(heat, 'very cold winters')}"


def _known(row: Mapping[str, Any] | pd.Series, features: Iterable[str]) -> dict[str, str]:
    """Return the words for each known feature."""
    known = {}
    features = set(features)
    for place in _PLACES:
        name = row.get(place)
        if place in features and isinstance(name, str) and name.strip():
            name = country_name(name) if place == "country" else name
            known[place] = " ".join(name.split())
    month, climate = _index(row.get("month"), 12), _index(row.get("climate"), 30)
    if "month" in features and month is not None:
        known["month"] = MONTHS[month]
    # Class 0 is "unknown" and is not mentioned.
    if "climate" in features and climate:
        known["climate"] = climate_vocabulary().keys[climate]
    return known


def _index(value: Any, count: int) -> int | None:
    if value is None or pd.isna(value) or not 0 <= value < count:
        return None
    return int(value)


def _dropped(
    known: Mapping[str, str], rng: np.random.Generator, drop_probability: float
) -> dict[str, str]:
    keep = rng.random(len(known)) >= drop_probability
    if len(known) and not keep.any():
        keep[rng.integers(len(known))] = True
    return {part: words for (part, words), kept in zip(known.items(), keep, strict=True) if kept}


def _phrases(known: Mapping[str, str]) -> list[str]:
    phrases = []
    names: list[str] = []
    for place in _PLACES:
        # Avoids "Carson City, Carson City, Nevada".
        if place in known and known[place] not in names:
            names.append(known[place])
    if names:
        phrases.append("from " + ", ".join(names))
    if "month" in known:
        phrases.append("taken in " + known["month"])
    if "climate" in known:
        phrases.append("in " + climate_phrase(known["climate"]))
    return phrases
