"""The parts of the Context heads page: heads compared with the map, climate belt, reasons."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from geoclip_core.data.features import DEFAULT_FEATURES, KNOWN_FEATURES
from geoclip_core.data.vocabulary import MONTHS, Vocabulary
from geoclip_core.earth.climate import (
    ClimateClass,
    ClimateRaster,
    climate_classes,
    climate_of_symbol,
)
from geoclip_core.earth.gazetteer import Gazetteer, country_name
from geoclip_core.errors import PhotoError
from geoclip_core.explain import PLACE, Effect, Explanation
from geoclip_core.model.map_context import MAP_FEATURES, map_context
from geoclip_core.prediction import Prediction
from ui import geometry
from ui.maps import OfflineMap
from ui.models import ServedModel, progress_bar
from ui.page import choose
from ui.photos import TrayPhoto
from ui.predictions import Share, probability_list, radius_sentence
from ui.theme import markdown_text, percent

Classes = Sequence[tuple[str, float]]
"""(label, probability) of a head, most probable first."""

_TOP = 5
"""Classes shown of each head."""

_TOP_CLASS, _NO_BELT = "top", "none"


@dataclass(frozen=True)
class Fact:
    """What the map says about one feature: its key in vocabularies, and a label."""

    key: str
    label: str


@dataclass(frozen=True)
class Verdict:
    """A head compared with the map."""

    fact: Fact
    rank: int | None = None
    """Rank of the map's class in the head, from 1; None if the head has no such class."""
    probability: float = 0.0
    """Probability that the head gives to the map's class."""


def facts_at(latitude: float, longitude: float) -> dict[str, Fact]:
    """Return climate, country, state, county and city of a point; unknown ones are left out."""
    point = (latitude, longitude)
    facts: dict[str, Fact] = {}
    index = int(ClimateRaster.load().indices(point))
    if index > 0:
        climate = climate_classes()[index]
        facts["climate"] = Fact(climate.symbol, climate.label)
    place = Gazetteer.load().places([point])[0]
    facts["country"] = Fact(place.country, place.country_name)
    named = {
        "state": (place.state_key, place.state),
        "county": (place.county_key, place.county),
        "city": (place.city_key, place.city),
    }
    for feature, (key, name) in named.items():
        if name and key:
            facts[feature] = Fact(key, name)
    return facts


def month_fact(captured_at: datetime | None) -> dict[str, Fact]:
    """Return the month of the photo's EXIF time under "month"; empty if there is no time."""
    if captured_at is None:
        return {}
    month = MONTHS[captured_at.month - 1]
    return {"month": Fact(month, month)}


def compare(classes: Classes, fact: Fact, vocabulary: Vocabulary) -> Verdict:
    """Look up the map's fact among a head's classes."""
    if fact.key in vocabulary.keys:
        name = vocabulary.labels[vocabulary.keys.index(fact.key)]
        for rank, (label, probability) in enumerate(classes, 1):
            if label == name:
                return Verdict(fact, rank, probability)
    return Verdict(fact)


def effective_classes(classes: Classes) -> float:
    """Return the number of equally likely classes with the same entropy: exp(entropy)."""
    shares = [share for _, share in classes if share > 0]
    total = sum(shares)
    return math.exp(-sum(share / total * math.log(share / total) for share in shares))


def doubt(classes: Classes) -> str:
    """Describe the entropy of a head in words."""
    count = effective_classes(classes)
    share = math.log(count) / math.log(max(len(classes), 2))
    limits = ((0.15, "Very sure"), (0.4, "Fairly sure"), (0.75, "Unsure"))
    words = next((text for limit, text in limits if share < limit), "Nearly guessing")
    if round(count) < 2:
        return f"{words} (one of {len(classes)} classes has most of the probability)"
    return f"{words} (as if choosing among {count:.0f} of {len(classes)})"


def features_shown(*contexts: Mapping[str, Any]) -> list[str]:
    """Return the features that at least one of the models answers, in the usual order."""
    return [feature for feature in KNOWN_FEATURES if any(feature in one for one in contexts)]


def absent_heads(context: Mapping[str, Any]) -> list[str]:
    """Return the default features for which a model has no head."""
    return [feature for feature in DEFAULT_FEATURES if feature not in context]


def readable(feature: str, label: str) -> str:
    """Return a class for display: a country's name instead of its code."""
    return country_name(label) if feature == "country" else label


def climate_of_label(label: str) -> ClimateClass | None:
    """Return the climate class of a label that begins with its symbol; None for "unknown"."""
    try:
        return climate_of_symbol(label.split(",")[0].strip())
    except KeyError:
        return None


def choose_belt(prediction: Prediction) -> ClimateClass | None:
    """Draw a box with the head's first climate classes; return the one to show, or None."""
    classes = prediction.context.get("climate") or map_context(
        prediction.posterior, _TOP, ["climate"]
    ).get("climate", [])
    found = [climate_of_label(label) for label, _ in classes[:_TOP]]
    climates = {climate.symbol: climate for climate in found if climate}
    if not climates:
        return None
    labels = {_TOP_CLASS: "Of the most probable class", _NO_BELT: "None"}
    labels |= {symbol: climate.label for symbol, climate in climates.items()}
    chosen = choose(
        "Climate belt on the map", list(labels), "climate belt", format_func=labels.__getitem__
    )
    if chosen == _TOP_CLASS:
        return next(iter(climates.values()))
    return climates.get(chosen or _NO_BELT)


def add_belt(world: OfflineMap, climate: ClimateClass) -> None:
    """Add the area of a climate class to a map, in the raster's colour."""
    name = f"Climate {climate.symbol}"
    world.add_image(_belt(climate, world.window), name, 0.7)
    world.legend[name] = climate.hex


@lru_cache(maxsize=32)
def _belt(climate: ClimateClass, window: geometry.Window) -> NDArray[np.uint8]:
    cells = ClimateRaster.load().codes(window.lattice(900))
    image = np.zeros((*cells.shape, 4), dtype=np.uint8)
    image[cells == climate.code] = (*climate.rgb, 255)
    return image


def model_heading(prediction: Prediction, letter: str) -> None:
    """Draw a model's name, its estimate, and the default heads that it lacks."""
    colour = "orange" if letter == "A" else "violet"
    st.markdown(f"#### :{colour}[{letter}] {markdown_text(prediction.model)}")
    st.markdown(f"**{markdown_text(prediction.headline)}**")
    if prediction.warning is not None:
        st.warning(markdown_text(prediction.warning), icon=":material/warning:")
    st.caption(f"The pin: {markdown_text(prediction.place.label)}")
    st.markdown(radius_sentence(prediction))
    if prediction.context_source == "map" or not prediction.context:
        st.caption(
            "This model has no context heads. Its bars show what the **map** says at the likely "
            "places; none of it was read in the photo."
        )
    elif absent := absent_heads(prediction.context):
        st.caption(f"It was trained without a head for {_listed(absent)}.")


def head_panel(
    feature: str, prediction: Prediction, vocabulary: Vocabulary | None, key: str
) -> None:
    """Draw one feature of one model: bars, certainty in words, and what the map says.

    The vocabulary is that of the head, or None if the model has no such head.
    """
    facts = facts_at(prediction.latitude, prediction.longitude)
    with st.container(border=True, key=f"{key} {feature}"):
        if vocabulary is not None and feature in prediction.context:
            st.markdown(f"**{feature.capitalize()}** :gray[read in the photo]")
            classes = prediction.context[feature]
            taken = month_fact(prediction.exif.captured_at if prediction.exif else None)
            fact = {**facts, **taken}.get(feature)
            verdict = None if fact is None else compare(classes, fact, vocabulary)
            _bars(feature, classes, verdict)
            st.caption(doubt(classes))
            st.markdown(_verdict_text(feature, verdict))
            return
        st.markdown(f"**{feature.capitalize()}** :gray[from the map, not from the photo]")
        if feature not in MAP_FEATURES:
            st.caption(f"The model has no head for the {feature}, and the map does not show it.")
            return
        if classes := map_context(prediction.posterior, _TOP, [feature]).get(feature, []):
            _bars(feature, classes)
        st.markdown(_map_text(feature, facts.get(feature)))


def _bars(feature: str, classes: Classes, verdict: Verdict | None = None) -> None:
    marked = verdict.rank if verdict else None
    shares = []
    for rank, (label, probability) in enumerate(classes, 1):
        # The map's class is listed at any rank, so that a contradiction can be seen.
        if rank <= _TOP or rank == marked:
            climate = climate_of_label(label) if feature == "climate" else None
            shares.append(
                Share(
                    readable(feature, label),
                    probability,
                    colour=climate.hex if climate else None,
                    marked=rank == marked,
                    hint=f"{_ordinal(rank)} of {len(classes)}",
                )
            )
    probability_list(shares)


def _verdict_text(feature: str, verdict: Verdict | None) -> str:
    if verdict is None:
        text = "The photo has no date." if feature == "month" else _map_text(feature, None)
        return f":gray[:material/help: {text}]"
    is_month = feature == "month"
    source = "The photo's date" if is_month else "The map at the pin"
    label = f"**{markdown_text(verdict.fact.label)}**"
    if verdict.rank is None:
        return f":gray[:material/help: {source} says {label}, which is not a class of this head.]"
    if verdict.rank == 1:
        where = "photo's date" if is_month else "pin"
        caution = "" if is_month else " (not proof that it is right)"
        return f":green[:material/check_circle: Consistent with the {where}: {label}{caution}.]"
    return (
        f":orange[:material/error: {source} says {label},] which the head ranks "
        f"{_ordinal(verdict.rank)} ({percent(verdict.probability)})."
    )


def _map_text(feature: str, fact: Fact | None) -> str:
    if fact is None:
        return f"The map has no {feature} at the pin" + (
            " (water)." if feature == "climate" else "."
        )
    return f":material/location_on: At the pin: **{markdown_text(fact.label)}**."


def _ordinal(number: int) -> str:
    teens = 10 <= number % 100 <= 20
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def reasons(models: Sequence[ServedModel], photo: TrayPhoto) -> None:
    """Draw a button that finds the parts of a readable photo that support the models' answers.

    Once they are found, they are shown instead of the button.
    """
    st.subheader("Which parts of the photo matter", anchor=False)
    st.caption(
        "The model answers again with one part of the photo covered after another. :orange[Orange] "
        "parts support the answer: covering them makes it less likely. :blue[Blue] parts support "
        "another answer. This shows what the model relies on, not whether it is right."
    )
    missing = [model for model in models if not model.has_explained(photo)]
    if missing and not _find_reasons(missing, photo):
        return
    found = [model.explanation(photo) for model in models]
    answers = list(dict.fromkeys(answer for each in found for answer in each.effects))
    answer = choose("Answer", answers, "explained answer", format_func=str.capitalize) or PLACE
    for column, letter, explanation in zip(st.columns(2), "AB", found, strict=False):
        with column:
            _reason(explanation, answer, letter)


def _find_reasons(models: Sequence[ServedModel], photo: TrayPhoto) -> bool:
    """Draw a button that starts the search, with a progress bar; return True once it is done."""
    place = st.empty()
    if not place.button("Find the reasons", icon=":material/search_insights:"):
        return False
    with place.container():
        for model in models:
            st.caption(f"Testing parts of the photo with {markdown_text(model.locator.name)}")
            try:
                model.explain(photo, progress_bar("Checked", "variants"))
            except PhotoError as error:
                st.error(markdown_text(str(error)), icon=":material/error:")
                return False
    place.empty()
    return True


def _reason(explanation: Explanation, answer: str, letter: str) -> None:
    effect = explanation.effects.get(answer)
    name = markdown_text(explanation.model)
    if effect is None:
        st.caption(f"**{letter}** {name} has no head for the {markdown_text(answer)}.")
        return
    stream = io.BytesIO()
    explanation.overlay(answer).save(stream, "PNG")
    label = readable(answer, effect.answer)
    st.image(
        stream.getvalue(), width="stretch", alt=f"Parts of {explanation.file} that support {label}"
    )
    st.markdown(f"**{letter}** {name}: **{markdown_text(label)}**. {_effect_text(effect, answer)}")
    st.download_button(
        "Picture",
        stream.getvalue(),
        f"{answer}-{letter}.png",
        "image/png",
        key=f"reasons picture {letter}",
        icon=":material/download:",
    )


def _effect_text(effect: Effect, answer: str) -> str:
    """Say how much the outlined part matters, compared with the same shape elsewhere."""
    support = (
        f"Expected GeoScore {effect.support:,.0f}"
        if answer == PLACE
        else f"Probability {percent(effect.support)}"
    )
    outlined, elsewhere = (_cost(effect, left) for left in (effect.left, effect.left_elsewhere))
    measured = (
        f"{support}. Hiding the outlined part costs **{outlined}**; hiding as much elsewhere costs "
        f"{elsewhere}."
    )
    if effect.stands_out:
        return measured
    return (
        f"{measured} :material/info: No part stands out: the answer depends on the photo as a "
        "whole, or on very little of it."
    )


def _cost(effect: Effect, left: float) -> str:
    lost = 1 - left / effect.support if effect.support > 0 else 0.0
    return "nothing" if lost < 0.005 else f"{percent(lost)} of it"
