"""What the map says at a point, and whether a context head that saw the photo says the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from geoclip_core.data.vocabulary import DEFAULT_FEATURES, KNOWN_FEATURES, MONTHS
from geoclip_core.earth.climate import (
    ClimateClass,
    ClimateRaster,
    climate_names,
    climate_of_symbol,
)
from geoclip_core.earth.gazetteer import Gazetteer, country_name

Classes = Sequence[tuple[str, float]]
"""(label, probability) of a head, most probable first."""


@dataclass(frozen=True)
class Fact:
    """What the map says of one feature: the key that vocabularies use, and how to say it."""

    key: str
    label: str


@dataclass(frozen=True)
class Verdict:
    """A head beside the map.

    Attributes:
        fact: what the map says.
        agrees: whether the head's first class is the map's; None if the head cannot know it.
        rank: the place of the map's class among the head's, from 1; None if it is not there.
        probability: what the head gives the map's class.
    """

    fact: Fact
    agrees: bool | None
    rank: int | None = None
    probability: float | None = None


def facts_at(latitude: float, longitude: float) -> dict[str, Fact]:
    """Climate, country, state, county and city of a point; what the map does not know is absent."""
    point = (latitude, longitude)
    facts: dict[str, Fact] = {}
    index = int(ClimateRaster.load().indices(point))
    if index > 0:
        climate = climate_names()[index]
        facts["climate"] = Fact(climate.symbol, climate.label)
    place = Gazetteer.load().places([point])[0]
    facts["country"] = Fact(place.country_key, place.country_name)
    named = {"state": place.state, "county": place.county, "city": place.city}
    for feature, name in named.items():
        key = getattr(place, f"{feature}_key")
        if name and key:
            facts[feature] = Fact(key, name)
    return facts


def month_fact(captured_at: datetime | None) -> dict[str, Fact]:
    """The month that the camera's clock wrote into the photo, if it did."""
    if captured_at is None:
        return {}
    month = MONTHS[captured_at.month - 1]
    return {"month": Fact(month, month)}


def compare(classes: Classes, fact: Fact, vocabulary: Any) -> Verdict:
    """Set a head's answer beside the map's.

    Args:
        classes: the head's classes with their probabilities, most probable first.
        fact: what the map says.
        vocabulary: the head's vocabulary, with ``keys`` and ``labels``.
    """
    if fact.key not in vocabulary.keys:
        return Verdict(fact, None)
    name = vocabulary.labels[vocabulary.keys.index(fact.key)]
    for rank, (label, probability) in enumerate(classes, 1):
        if label == name:
            return Verdict(fact, rank == 1, rank, probability)
    return Verdict(fact, None)


def effective_classes(classes: Classes) -> float:
    """How many equally likely classes would leave as much doubt: exp of the entropy."""
    shares = [share for _, share in classes if share > 0]
    total = sum(shares)
    return math.exp(-sum(share / total * math.log(share / total) for share in shares))


def doubt(classes: Classes) -> str:
    """The entropy of a head in words: how sure it is, and between how many classes it wavers."""
    count = effective_classes(classes)
    share = math.log(count) / math.log(max(len(classes), 2))
    words = (
        "Very sure"
        if share < 0.15
        else "Fairly sure"
        if share < 0.4
        else "Unsure"
        if share < 0.75
        else "Nearly guessing"
    )
    if count < 1.05:
        return f"{words}: one class has nearly all of the probability ({len(classes)} classes)."
    return (
        f"{words}: as much doubt as between {count:.1f} equally likely classes, of {len(classes)}."
    )


def features_shown(*contexts: Mapping[str, Any]) -> list[str]:
    """The features that at least one of the models answers, in the usual order."""
    return [feature for feature in KNOWN_FEATURES if any(feature in one for one in contexts)]


def absent_heads(context: Mapping[str, Any]) -> list[str]:
    """The usual features that a model has no head for."""
    return [feature for feature in DEFAULT_FEATURES if feature not in context]


def readable(feature: str, label: str) -> str:
    """A class as people call it: a country's name instead of its code."""
    return country_name(label) if feature == "country" else label


def climate_of_label(label: str) -> ClimateClass | None:
    """The climate class of a label that begins with its symbol; None for "unknown"."""
    try:
        return climate_of_symbol(label.split(",")[0].strip())
    except KeyError:
        return None
