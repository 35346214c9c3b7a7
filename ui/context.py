"""The context page's parts: heads as bars beside the map's facts, and two models on one map."""

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

from geoclip_core.data.vocabulary import DEFAULT_FEATURES, KNOWN_FEATURES, MONTHS
from geoclip_core.earth.climate import (
    ClimateClass,
    ClimateRaster,
    climate_names,
    climate_of_symbol,
)
from geoclip_core.earth.gazetteer import Gazetteer, country_name
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.explain import PLACE, Effect, Explanation
from geoclip_core.model.map_context import MAP_FEATURES, map_context
from geoclip_core.prediction import Prediction
from ui import geometry
from ui.maps import OfflineMap
from ui.models import ServedModel, progress_bar
from ui.page import choose
from ui.photos import TrayPhoto
from ui.predictions import Share, probability_list
from ui.theme import kilometres, markdown_text, percent

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


def reasons(models: Sequence[ServedModel], photo: TrayPhoto) -> None:
    """What in a photo speaks for the answers of one or two models; looked for when asked to.

    Args:
        models: A, and B if there is one.
        photo: one that can be read.
    """
    st.subheader("What in the photo says so", anchor=False)
    st.caption(
        "Parts of the photo are covered, one after another, and the model is asked again. "
        ":orange[Orange] parts speak for the answer: without them it loses support. :blue[Blue] "
        "parts speak for something else. This is what the model uses, right or wrong."
    )
    missing = [model for model in models if not model.has_explained(photo)]
    if missing and not _look_for(missing, photo):
        return
    found = [model.explanation(photo) for model in models]
    answers = list(dict.fromkeys(answer for each in found for answer in each.effects))
    answer = choose("Answer", answers, "explained answer", format_func=str.capitalize) or PLACE
    for column, letter, explanation in zip(st.columns(2), "AB", found, strict=False):
        with column:
            _reason(explanation, answer, letter)


def _look_for(models: Sequence[ServedModel], photo: TrayPhoto) -> bool:
    """A button; once it is pressed, the search with its progress. True when all is found."""
    place = st.empty()
    if not place.button("Find the reasons", icon=":material/search_insights:"):
        return False
    with place.container():
        for model in models:
            st.caption(f"{markdown_text(model.locator.name)} looks at the photo")
            model.explain(photo, progress_bar("Looked", "times"))
    place.empty()
    return True


def _reason(explanation: Explanation, answer: str, letter: str) -> None:
    effect = explanation.effects.get(answer)
    name = markdown_text(explanation.model)
    if effect is None:
        st.caption(f"**{letter}** {name} reads no {answer} in the photo.")
        return
    stream = io.BytesIO()
    explanation.overlay(answer).save(stream, "PNG")
    label = readable(answer, effect.answer) if answer != PLACE else effect.answer
    st.image(
        stream.getvalue(), width="stretch", alt=f"What speaks for {label} in {explanation.file}"
    )
    st.markdown(f"**{letter}** {name}: **{markdown_text(label)}**. {_check(effect, answer)}")
    st.download_button(
        "Picture",
        stream.getvalue(),
        f"{answer}-{letter}.png",
        "image/png",
        key=f"reasons picture {letter}",
        icon=":material/download:",
    )


def _check(effect: Effect, answer: str) -> str:
    """How much the outlined part matters, beside the same shape elsewhere."""
    kind = "Expected GeoScore" if answer == PLACE else "Probability"
    numbers = effect.support, effect.left, effect.left_elsewhere
    whole, left, other = (f"{n:,.0f}" if answer == PLACE else percent(n) for n in numbers)
    measured = (
        f"{kind} {whole}; with the outlined fifth covered **{left}**, with the same shape covered "
        f"elsewhere {other} on average."
    )
    if effect.stands_out:
        return measured
    return (
        f"{measured} :material/info: So no part stands out: the answer rests on the photo as a "
        "whole, or on very little."
    )


TOP = 5
"""Classes that are drawn of each head."""

TOP_CLASS, NONE = "top", "none"


def comparison_map(
    predictions: Sequence[Prediction], belt: ClimateClass | None = None
) -> OfflineMap:
    """One or two models' guesses for the same photo, with the km between them and a climate belt.

    Args:
        predictions: of the first model, and of the second if there is one.
        belt: the climate class to draw, in its own colour.
    """
    points = [(prediction.latitude, prediction.longitude) for prediction in predictions]
    focus = [*points]
    for prediction, point in zip(predictions, points, strict=True):
        focus += geometry.around(point, prediction.radius_km[0.5])
    world = OfflineMap(focus, middle=geometry.middle_longitude([p[1] for p in points]))
    legend = {}
    if belt is not None:
        world.add_image(_belt(belt, world.window), world.window, f"Climate {belt.symbol}")
        legend[f"Climate {belt.symbol}"] = belt.hex
    if len(points) == 2:
        apart = kilometres(float(haversine_km(*points)))
        world.add_line(*points, f"{apart} between the two guesses")
    for prediction, point, role in zip(predictions, points, ("best", "other"), strict=False):
        colour = world.colours.best if role == "best" else world.colours.other
        half = prediction.radius_km[0.5]
        circle = f"{prediction.model}: half of such photos, {kilometres(half)}"
        world.add_circle(point, half, colour, circle)
    same_spot = len(points) == 2 and haversine_km(*points) < 1
    for prediction, point, role in zip(predictions, points, ("best", "other"), strict=False):
        letter = "A, B" if same_spot else "A" if role == "best" else "B"
        label = f"{prediction.model}\n{prediction.place.label}"
        world.add_point(point, role, label, text=letter, legend=f"{letter}: {prediction.model}")
        if same_spot:
            break
    exif = predictions[0].exif
    if exif is not None and exif.latitude is not None and exif.longitude is not None:
        world.add_point((exif.latitude, exif.longitude), "truth", "Position in its EXIF")
    return world.finish(legend)


def choose_belt(prediction: Prediction) -> ClimateClass | None:
    """The climate class to draw: the head's top class, another of its first ones, or none."""
    classes = prediction.context.get("climate") or map_context(
        prediction.posterior, TOP, ["climate"]
    ).get("climate", [])
    found = [climate_of_label(label) for label, _ in classes[:TOP]]
    climates = {climate.symbol: climate for climate in found if climate}
    if not climates:
        return None
    top = next(iter(climates))
    labels = {TOP_CLASS: "Of the most probable class", NONE: "None"}
    labels |= {symbol: climate.label for symbol, climate in climates.items()}
    chosen = choose("Climate belt on the map", list(labels), "climate belt", format_func=labels.get)
    return climates[top] if chosen == TOP_CLASS else climates.get(chosen or NONE)


@lru_cache(maxsize=32)
def _belt(climate: ClimateClass, window: geometry.Window) -> NDArray[np.uint8]:
    """A climate class on a part of the map, in its own colour."""
    cells = geometry.sample_lattice(window.lattice(900), ClimateRaster.load().codes)
    image = np.zeros((*cells.shape, 4), dtype=np.uint8)
    image[cells == climate.code] = (*climate.rgb, 255)
    return image


def model_heading(prediction: Prediction, letter: str) -> None:
    """A model's answer in short, and which of the usual heads it does not have."""
    colour = "orange" if letter == "A" else "violet"
    st.markdown(f"#### :{colour}[{letter}] {markdown_text(prediction.model)}")
    half = kilometres(prediction.radius_km[0.5])
    st.markdown(
        f"Estimate: **{markdown_text(prediction.place.label)}**, half of such photos within {half}."
        + (" It is **not sure** even of the continent." if prediction.unsure else "")
    )
    if prediction.context_source == "map":
        st.caption(
            "This model has no context heads. Its bars are what the **map** says where it thinks "
            "the photo was taken; nothing in them was read in the photo."
        )
    elif not prediction.context:
        st.caption(
            "This model goes from the photo straight to coordinates: it was trained without context"
            " heads. Its bars are what the **map** says where it thinks the photo was taken."
        )
    elif absent := absent_heads(prediction.context):
        st.caption(f"It was trained without a head for {_listed(absent)}.")


def head_panel(feature: str, prediction: Prediction, vocabulary: Any, key: str) -> None:
    """One feature of one model: bars, doubt in words, and the map's word on it.

    Args:
        feature: such as "climate".
        prediction: the model's answer.
        vocabulary: of the head; None if the model has no such head.
        key: unique on the page.
    """
    facts = facts_at(prediction.latitude, prediction.longitude)
    with st.container(border=True, key=f"{key} {feature}"):
        if feature in prediction.context and prediction.context_source == "photo":
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
            st.caption(f"No head reads the {feature}, and no map knows it.")
            return
        classes = map_context(prediction.posterior, TOP, [feature]).get(feature, [])
        if classes:
            _bars(feature, classes)
        st.markdown(_map_text(feature, facts.get(feature)))


def _bars(feature: str, classes: Classes, verdict: Verdict | None = None) -> None:
    marked = verdict.rank if verdict else None
    shares = []
    for rank, (label, probability) in enumerate(classes, 1):
        # The map's class is listed wherever it stands, so that contradiction is visible too.
        if rank <= TOP or rank == marked:
            climate = climate_of_label(label) if feature == "climate" else None
            shares.append(
                Share(
                    readable(feature, label),
                    probability,
                    colour=climate.hex if climate else None,
                    marked=rank == marked,
                    hint=f"Place {rank} of {len(classes)}",
                )
            )
    probability_list(shares)


def _verdict_text(feature: str, verdict: Verdict | None) -> str:
    source = "The camera's clock" if feature == "month" else "The map at the pin"
    if verdict is None:
        return (
            ":gray[:material/help: Neither map nor EXIF knows the month.]"
            if feature == "month"
            else f":gray[:material/help: {_map_text(feature, None)}]"
        )
    label = f"**{markdown_text(verdict.fact.label)}**"
    if verdict.agrees is None:
        return f":gray[:material/help: {source} says {label}: not among the classes of this head.]"
    if verdict.agrees:
        return f":green[:material/check_circle: {source} agrees: {label}.]"
    return (
        f":orange[:material/error: {source} says {label},] which is place {verdict.rank} of the "
        f"head, at {percent(verdict.probability or 0)}."
    )


def _map_text(feature: str, fact: Fact | None) -> str:
    if fact is None:
        return f"The map has no {feature} at the pin" + (
            " (water)." if feature == "climate" else "."
        )
    return f":material/location_on: At the pin: **{markdown_text(fact.label)}**."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
