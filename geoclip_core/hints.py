"""Hints: what is known about a photo's place or time, translated from names for the models."""

from collections.abc import Mapping
from dataclasses import dataclass

from geoclip_core.data.vocabulary import MONTHS, Vocabulary
from geoclip_core.earth.climate import climate_classes
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.errors import HintError
from geoclip_core.model.map_context import Region

HINT_FEATURES = ("country", "state", "county", "city", "climate", "month")
"""What can be given."""


@dataclass(frozen=True)
class Hints:
    """What is known, for one model."""

    labels: dict[str, str]
    """Feature -> what is known, in words: {"country": "Chile"}."""
    heads: dict[str, int]
    """Feature -> class index that replaces what the model's head reads in the photo."""
    region: Region | None
    """The part of the map where it holds; None if the map does not show it (month)."""

    @property
    def words(self) -> str:
        """What is known: "country Chile, month January"."""
        return ", ".join(f"{feature} {label}" for feature, label in self.labels.items())


def read_hints(
    given: Mapping[str, str | int], vocabularies: Mapping[str, Vocabulary], model: str
) -> Hints:
    """Return hints for a model from {"country": "Chile", "climate": "Csb", "month": 1}.

    A class of a head that the gazetteer does not know (of a dataset with other names) replaces what
    that head reads; the map is left as it is.

    Args:
        given: feature -> name, key ("Texas_US") or code; a month is a number from 1 or its name.
        vocabularies: of the model's context heads.
        model: its name, for messages.

    Raises:
        HintError: a feature is unknown, or neither the model nor the map can use it.
        PlaceError: no country, state, county or city has this name, or several do.
    """
    labels: dict[str, str] = {}
    heads: dict[str, int] = {}
    units: list[tuple[str, int]] = []
    climate = None
    for feature, value in given.items():
        if feature not in HINT_FEATURES:
            raise HintError(f"there is no hint {feature!r}: give {', '.join(HINT_FEATURES)}")
        if feature == "climate":
            climate, key = _climate(str(value))
            labels[feature] = key
        elif feature == "month":
            key = labels[feature] = _month(value)
            if feature not in vocabularies:
                raise HintError(
                    f"{model} does not read the month and the map does not know it: leave it out"
                )
        else:
            key, labels[feature], unit = _place(feature, str(value), vocabularies.get(feature))
            units += [unit] if unit else []
        if feature in vocabularies and key in vocabularies[feature].keys:
            heads[feature] = vocabularies[feature].keys.index(key)
    region = Region(tuple(units), climate) if units or climate is not None else None
    return Hints(labels, heads, region)


def _place(
    feature: str, text: str, vocabulary: Vocabulary | None
) -> tuple[str, str, tuple[str, int] | None]:
    """Return key, name, and (level, index) in the gazetteer of a country, state, county or city."""
    gazetteer, level = Gazetteer.load(), "town" if feature == "city" else feature
    keys = gazetteer.units(level).keys
    if text in keys:
        index = keys.index(text)
        return text, gazetteer.unit_name(level, index), (level, index)
    if vocabulary is not None and text in vocabulary.keys:
        return text, vocabulary.labels[vocabulary.keys.index(text)], None
    place = gazetteer.find_level(text, level)
    return place.key, place.name, (level, keys.index(place.key))


def parse_given(texts: tuple[str, ...]) -> dict[str, str | int]:
    """Return {"country": "Chile"} of ("country=Chile",).

    Raises:
        HintError: a text is not of this form, or a feature occurs twice.
    """
    given: dict[str, str | int] = {}
    for text in texts:
        feature, equals, value = text.partition("=")
        feature = feature.strip().lower()
        if not equals or not value.strip():
            raise HintError(f"--given: write {text.strip() or 'country'!r} as country=Chile")
        if feature in given:
            raise HintError(f"--given: {feature} is given twice")
        given[feature] = value.strip()
    return given


def _climate(text: str) -> tuple[int, str]:
    """Return class index and symbol of a climate."""
    for index, climate in enumerate(climate_classes()):
        if text.strip().lower() in (climate.symbol.lower(), climate.label.lower()):
            if index == 0:
                break
            return index, climate.symbol
    symbols = ", ".join(climate.symbol for climate in climate_classes()[1:])
    raise HintError(f"there is no climate {text!r}; the classes are {symbols}")


def _month(value: str | int) -> str:
    """Return the English name of a month."""
    text = str(value).strip().lower()
    if text.isdigit() and 1 <= int(text) <= 12:
        return MONTHS[int(text) - 1]
    found = [month for month in MONTHS if len(text) >= 3 and month.lower().startswith(text)]
    if len(found) != 1:
        raise HintError(f"there is no month {value!r}: give 1 to 12, or January to December")
    return found[0]
