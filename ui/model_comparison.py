"""Compare two to four models on one photo: pins, radii and places side by side."""

from collections.abc import Sequence
from itertools import combinations

import streamlit as st

from geoclip_core.earth.sphere import haversine_km, middle_longitude
from geoclip_core.errors import HintError, PhotoError, PlaceError
from geoclip_core.prediction import Prediction
from ui import geometry
from ui.geometry import Coordinate
from ui.maps import OfflineMap, show_map
from ui.models import Given, ServedModel, accuracy_sentence, available_models, served_model
from ui.page import Workbench, choose, wrapping_columns
from ui.photos import EXAMPLE_NOTE, TrayPhoto, thumbnail
from ui.predictions import (
    LAYERS,
    add_dots,
    add_heatmap,
    answer_details,
    candidate_list,
    card_actions,
    download_buttons,
    exif_position,
    headline,
    layer_switches,
    pin_points,
    similar_photos,
    with_similar,
)
from ui.questions import claim_field, hint_fields, usable, with_claims
from ui.theme import Palette, kilometres, markdown_text, palette

LETTERS = "ABCD"

_KEY = "models to compare"
SAME_KM = 0.5
"""Guesses closer than this count as the same place and share a pin."""

_SAME = "the same place"

# Colours (light, dark) of a third and a fourth model, unlike those that have a meaning.
_THIRD = ("#c2336b", "#f590b2")
_FOURTH = ("#806800", "#d9c24a")


def compared_models(first: str | None) -> list[str]:
    """Draw a field for models to compare with ``first``; return the chosen names."""
    options = [name for name in available_models() if name != first]
    chosen = [name for name in st.session_state.get(_KEY, []) if name in options]
    if chosen != st.session_state.get(_KEY, []):
        st.session_state[_KEY] = chosen
    return st.multiselect(
        "Compare with",
        options,
        key=_KEY,
        max_selections=len(LETTERS) - 1,
        persist_state="session",
        placeholder="No other model",
        help="Shows the guesses of two to four models for one photo side by side.",
        disabled=not options,
    )


def model_comparison(
    bench: Workbench, first: ServedModel, others: Sequence[str], photos: Sequence[TrayPhoto]
) -> None:
    """Fill the Map page with the predictions of several models for one of the photos."""
    with bench.map_side:
        photo = photos[0]
        if len(photos) > 1:
            chosen = choose("Photo", photos, "compared photo", format_func=lambda one: one.name)
            photo = chosen or photo
        switches = st.container()
        claimed = claim_field()
        given = usable(first, hint_fields(first))
        models = [first, *filter(None, (served_model(name) for name in others))]
        try:
            rows = with_claims([_answer(model, photo, given) for model in models], claimed)
        except PhotoError as error:
            st.error(markdown_text(str(error)), icon=":material/broken_image:")
            return
        predictions = [row for row in rows if isinstance(row, Prediction)]
        with switches:
            layers = layer_switches(len(predictions), compared=True)
        seen = [
            with_similar(model, photo, prediction, letter)
            for model, prediction, letter in zip(models, predictions, LETTERS, strict=False)
        ]
        show_map(comparison_map(seen, layers=layers))
        st.markdown(distances(predictions))
        download_buttons(predictions)
    with bench.cards:
        st.image(thumbnail(photo), width="stretch", alt=f"The photo {photo.name}")
        st.caption(EXAMPLE_NOTE if photo.example else markdown_text(photo.name))
    colours = model_colours(palette())
    columns = wrapping_columns(len(predictions), "compared", 260)
    for i, column in enumerate(columns):
        with column, st.container(border=True, key=_card_key(i)):
            _card(LETTERS[i], models[i], photo, seen[i], colours[i])


def _answer(model: ServedModel, photo: TrayPhoto, given: Given) -> Prediction:
    """Return a model's prediction; without what is known if this model cannot use it.

    Raises:
        PhotoError: the photo cannot be read.
    """
    try:
        return model.locate([photo], given)
    except (HintError, PlaceError) as error:
        name = markdown_text(model.locator.name)
        st.caption(f":material/info: {name} is shown without it: {markdown_text(str(error))}.")
        return model.locate([photo])


def _card_key(index: int) -> str:
    return f"compared-{LETTERS[index]}"


def comparison_map(
    predictions: Sequence[Prediction],
    without_context: Sequence[Prediction | None] = (),
    layers: Sequence[str] = LAYERS[:1],
) -> OfflineMap:
    """Return a map of one photo's predictions: lettered pins, 50 % circles, lines between pins.

    ``without_context`` are those of the same models with their context off, or None each.
    ``layers`` says which of ``LAYERS`` to draw; the heatmap is the mean over the models.
    """
    points = [(prediction.latitude, prediction.longitude) for prediction in predictions]
    focus = [point for prediction in predictions for point in pin_points(prediction)]
    must = list(focus)
    for prediction, point in zip(predictions, points, strict=True):
        focus += geometry.around(point, prediction.radius_km[0.5])
    others = [one for one in without_context if one is not None]
    focus += [(other.latitude, other.longitude) for other in others]
    must += [(other.latitude, other.longitude) for other in others]
    world = OfflineMap(focus, middle_longitude([point[1] for point in points]), must)
    colours = model_colours(world.colours)
    if "Heatmap" in layers:
        add_heatmap(world, predictions)
    for i, prediction in enumerate(predictions):
        world.legend[f"{LETTERS[i]}: {prediction.model}"] = colours[i]
        if "Radius" not in layers:
            continue
        half = prediction.radius_km[0.5]
        label = f"{prediction.model}: 50 % within {kilometres(half)}"
        world.add_circle(points[i], half, colours[i], label)
    for (i, a), (j, b) in combinations(enumerate(points), 2):
        world.add_line(a, b, f"{LETTERS[i]} and {LETTERS[j]}: {_apart(a, b)}")
    add_dots(world, predictions)
    for letter, point, off in zip(LETTERS, points, without_context, strict=False):
        if off is None:
            continue
        place = (off.latitude, off.longitude)
        if (apart := float(haversine_km(point, place))) >= SAME_KM:
            label = f"{letter} with its context off: {off.place.label}"
            world.add_line(point, place, f"{letter}, context on and off: {kilometres(apart)}")
            world.add_pin(place, f"{letter} off", world.colours.muted, label)
            world.legend["Context off"] = world.colours.muted
    for spot in spots(points):
        lines = [f"{LETTERS[i]}: {predictions[i].model}" for i in spot]
        lines.append(f"Estimate: {predictions[spot[0]].place.label}")
        text = ", ".join(LETTERS[i] for i in spot)
        card = _card_key(spot[0])
        world.add_pin(points[spot[0]], text, colours[spot[0]], "\n".join(lines), card)
    return world


def distances(predictions: Sequence[Prediction]) -> str:
    """Say how far apart the guesses are, and how far from where it was taken, in Markdown."""
    truth = exif_position(predictions[0])
    if len(predictions) == 2 and truth is None:
        return apart_sentence(*predictions)
    letters = LETTERS[: len(predictions)]
    head = ["Distance", *letters[1:], *(["Where it was taken"] if truth else [])]
    lines = [head, ["---"] * len(head)]
    points = [(prediction.latitude, prediction.longitude) for prediction in predictions]
    for i, (letter, prediction) in enumerate(zip(letters, predictions, strict=True)):
        cells = [_apart(points[i], points[j]) if j > i else "" for j in range(1, len(predictions))]
        away = [_apart(points[i], truth)] if truth else []
        if any(cells) or away:
            lines.append([f"**{letter}** {markdown_text(prediction.model)}", *cells, *away])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def apart_sentence(first: Prediction, second: Prediction) -> str:
    """Say how far apart two models' guesses are, in Markdown."""
    apart = _apart((first.latitude, first.longitude), (second.latitude, second.longitude))
    if apart == _SAME:
        return "Both models chose the same place."
    return f"The two guesses are **{apart}** apart."


def model_colours(colours: Palette) -> tuple[str, str, str, str]:
    """Return the colours of models A to D."""
    return colours.best, colours.other, _THIRD[colours.dark], _FOURTH[colours.dark]


def _card(
    letter: str, model: ServedModel, photo: TrayPhoto, prediction: Prediction, colour: str
) -> None:
    st.markdown(f"**{letter}** · {markdown_text(prediction.model)}")
    headline(prediction)
    answer_details(prediction)
    with st.expander("Candidates"):
        candidate_list(prediction, colour)
    similar_photos(photo, prediction, letter)
    st.caption(accuracy_sentence(model.locator))
    card_actions(model, [photo], prediction, letter)


def _apart(a: Coordinate, b: Coordinate) -> str:
    distance = float(haversine_km(a, b))
    return _SAME if distance < SAME_KM else kilometres(distance)


def spots(points: Sequence[Coordinate]) -> list[list[int]]:
    """Group the indices of points that are less than ``SAME_KM`` apart."""
    found: list[list[int]] = []
    for index, point in enumerate(points):
        for spot in found:
            if float(haversine_km(points[spot[0]], point)) < SAME_KM:
                spot.append(index)
                break
        else:
            found.append([index])
    return found
