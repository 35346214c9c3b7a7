"""Two to four models on one photo: their pins, radii and places side by side."""

from collections.abc import Sequence
from itertools import combinations

import folium
import streamlit as st

from geoclip_core.earth.sphere import haversine_km
from geoclip_core.errors import PhotoError
from geoclip_core.prediction import Prediction
from ui import geometry
from ui.maps import OfflineMap, Pin, Popup, plain, show_map
from ui.models import ServedModel, accuracy_sentence, available_models, served_model
from ui.page import Workbench, choose
from ui.photos import EXAMPLE_NOTE, TrayPhoto, thumbnail
from ui.predictions import Share, probability_list, radius_sentence
from ui.theme import Palette, kilometres, markdown_text

LETTERS = "ABCD"
KEY = "models to compare"

_SAME_KM = 0.5
"""Guesses that are closer share a pin."""
_SAME = "the same place"

# A third and a fourth model, apart from the colours that mean something: light, dark.
_THIRD = ("#c2336b", "#f590b2")
_FOURTH = ("#806800", "#d9c24a")


def compared_models(first: str | None) -> list[str]:
    """A field for the models to show beside the first one; nothing chosen: no comparison."""
    options = [name for name in available_models() if name != first]
    chosen = [name for name in st.session_state.get(KEY, []) if name in options]
    if chosen != st.session_state.get(KEY, []):
        st.session_state[KEY] = chosen
    return st.multiselect(
        "Compare with",
        options,
        key=KEY,
        max_selections=len(LETTERS) - 1,
        persist_state="session",
        placeholder="No other model",
        help="Shows the guesses of up to four models for one photo side by side.",
        disabled=not options,
    )


def model_comparison(
    bench: Workbench, first: ServedModel, others: Sequence[str], photos: Sequence[TrayPhoto]
) -> None:
    """Fill the page with what several models say of one photo.

    Args:
        bench: the page's containers.
        first: the model that the page shows without a comparison.
        others: names of the models beside it.
        photos: one of them is chosen.
    """
    with bench.map_side:
        photo = photos[0]
        if len(photos) > 1:
            photo = choose(
                "Photo", list(photos), "compared photo", format_func=lambda photo: photo.name
            )
        models = [first, *filter(None, (served_model(name) for name in others))]
        try:
            rows = [model.locate([photo]) for model in models]
        except PhotoError as error:
            st.error(markdown_text(str(error)), icon=":material/broken_image:")
            return
        show_map(comparison_map(rows), key="map")
        st.markdown(distances(rows))
    with bench.cards:
        st.image(thumbnail(photo), width="stretch", alt=f"The photo {photo.name}")
        st.caption(EXAMPLE_NOTE if photo.example else markdown_text(photo.name))
    for column, letter, model, row in zip(
        st.columns(len(rows)), LETTERS, models, rows, strict=False
    ):
        with column:
            _card(letter, model, row)


def comparison_map(rows: Sequence[Prediction]) -> OfflineMap:
    """Lettered pins of one photo's predictions, their 50 % circles, and the ways between them."""
    points = [(row.latitude, row.longitude) for row in rows]
    focus = [*points]
    for row, point in zip(rows, points, strict=True):
        focus += geometry.around(point, row.radius_km[0.5])
    world = OfflineMap(focus, middle=geometry.middle_longitude([point[1] for point in points]))
    colours = model_colours(world.colours)
    legend = {}
    for row, point, colour in zip(rows, points, colours, strict=False):
        half = row.radius_km[0.5]
        label = f"{row.model}: half of such photos, {kilometres(half)}"
        world.add_circle(point, half, colour, label)
    for (i, a), (j, b) in combinations(enumerate(points), 2):
        world.add_line(a, b, f"{LETTERS[i]} and {LETTERS[j]}: {_apart(a, b)}")
    truth = _truth(rows[0])
    if truth is not None:
        world.add_point(truth, "truth", "Position in its EXIF")
    for letters, index in _shared(points):
        names = [rows[LETTERS.index(letter)].model for letter in letters]
        label = "\n".join([f"{a}: {n}" for a, n in zip(letters, names, strict=True)])
        pin = Pin(world.at(points[index]), ", ".join(letters), colours[index])
        text = f"{label}\nEstimate: {rows[index].place.label}"
        pin.add_child(folium.Tooltip(plain(text), sticky=False))
        pin.add_child(Popup(plain(text)))
        pin.add_to(world)
    for letter, row, colour in zip(LETTERS, rows, colours, strict=False):
        legend[f"{letter}: {row.model}"] = colour
    return world.finish(legend)


def distances(rows: Sequence[Prediction]) -> str:
    """How far apart the guesses are, and from the photo's own position, in Markdown."""
    if len(rows) == 2 and _truth(rows[0]) is None:
        a, b = ((row.latitude, row.longitude) for row in rows)
        apart = _apart(a, b)
        return f"The two guesses are **{apart}**" + ("." if apart == _SAME else " apart.")
    letters = LETTERS[: len(rows)]
    truth = _truth(rows[0])
    head = ["Distance", *letters[1:], *(["EXIF position"] if truth else [])]
    lines = [head, ["---"] * len(head)]
    points = [(row.latitude, row.longitude) for row in rows]
    for i, (letter, row) in enumerate(zip(letters, rows, strict=True)):
        cells = [_apart(points[i], points[j]) if j > i else "" for j in range(1, len(rows))]
        away = [_apart(points[i], truth)] if truth else []
        if any(cells) or away:
            lines.append([f"**{letter}** {markdown_text(row.model)}", *cells, *away])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def model_colours(colours: Palette) -> tuple[str, str, str, str]:
    """The colours of models A to D."""
    return colours.best, colours.other, _THIRD[colours.dark], _FOURTH[colours.dark]


def _card(letter: str, model: ServedModel, row: Prediction) -> None:
    with st.container(border=True, key=f"compared-{letter}"):
        st.markdown(f"**{letter}** · {markdown_text(row.model)}")
        st.markdown(f"**{markdown_text(row.place.label)}**")
        st.code(f"{row.latitude:.4f}, {row.longitude:.4f}", language=None)
        st.markdown(radius_sentence(row))
        with st.expander("Candidates"):
            probability_list(
                [
                    Share(
                        candidate.place.label,
                        candidate.probability,
                        hint=f"{candidate.latitude:.4f}, {candidate.longitude:.4f}",
                    )
                    for candidate in row.candidates
                ]
            )
        st.caption(f"{row.seconds:.2f} s. {accuracy_sentence(model.locator)}")


def _apart(a: tuple[float, float], b: tuple[float, float]) -> str:
    distance = float(haversine_km(a, b))
    return _SAME if distance < _SAME_KM else kilometres(distance)


def _truth(row: Prediction) -> tuple[float, float] | None:
    exif = row.exif
    if exif is None or exif.latitude is None or exif.longitude is None:
        return None
    return exif.latitude, exif.longitude


def _shared(points: Sequence[tuple[float, float]]) -> list[tuple[str, int]]:
    """Letters of the models that answer the same spot, and the index of the first of them."""
    groups: list[tuple[str, int]] = []
    for index, point in enumerate(points):
        for at, (letters, first) in enumerate(groups):
            if float(haversine_km(points[first], point)) < _SAME_KM:
                groups[at] = (letters + LETTERS[index], first)
                break
        else:
            groups.append((LETTERS[index], index))
    return groups
