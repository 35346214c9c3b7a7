"""The context page's parts: heads as bars beside the map's facts, and two models on one map."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from geoclip_core.earth.climate import ClimateClass, ClimateRaster
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.locator import Prediction
from geoclip_core.model.map_context import MAP_FEATURES, map_context
from ui import map_shapes
from ui.context.facts import (
    Classes,
    Fact,
    Verdict,
    absent_heads,
    climate_of_label,
    compare,
    doubt,
    facts_at,
    month_fact,
    readable,
)
from ui.maps import OfflineMap
from ui.probability_list import Share, probability_list
from ui.session import choose
from ui.theme import kilometres, markdown_text, percent

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
        focus += map_shapes.around(point, prediction.radius_km[0.5])
    world = OfflineMap(focus, middle=map_shapes.middle_longitude([p[1] for p in points]))
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
def _belt(climate: ClimateClass, window: map_shapes.Window) -> NDArray[np.uint8]:
    """A climate class on a part of the map, in its own colour."""
    cells = map_shapes.sample_lattice(window.lattice(900), ClimateRaster.load().codes)
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
