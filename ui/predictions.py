"""One card a photo: what it is, where it may have been taken, and how sure that is."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from geoclip_core.errors import PhotoError
from geoclip_core.formats import Row, to_csv, to_geojson, to_kml
from geoclip_core.model.posterior import Posterior
from geoclip_core.prediction import Failure, Prediction
from ui import geometry
from ui.maps import OfflineMap
from ui.page import CONTEXT_PHOTO, page_names
from ui.photos import TrayPhoto, photo_tray, thumbnail
from ui.theme import kilometres, markdown_text, palette, percent, rgb, translucent

_FORMATS = (
    ("CSV", "csv", to_csv, "text/csv"),
    ("GeoJSON", "geojson", to_geojson, "application/geo+json"),
    ("KML", "kml", to_kml, "application/vnd.google-earth.kml+xml"),
)


def download_buttons(rows: Sequence[Row]) -> None:
    """CSV, GeoJSON and KML of predictions; unreadable photos are rows of the CSV alone."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for label, suffix, convert, mime in _FORMATS:
            st.download_button(
                label,
                convert(rows),
                f"places.{suffix}",
                mime,
                icon=":material/download:",
                on_click="ignore",
                help=f"All {len(rows)} as {label}" if len(rows) > 1 else f"The result as {label}",
            )


@dataclass(frozen=True)
class Share:
    """One line: plain text, its probability (0 to 1), and how to draw it."""

    label: str
    probability: float
    colour: str | None = None
    """Of the bar; by default the blue of candidates."""
    marked: bool = False
    """Framed in the green of the truth."""
    hint: str = ""
    """Shown when the line is hovered."""


def probability_list(shares: Sequence[Share]) -> None:
    """Draw the lines in their order; labels wrap, so that none is cut."""
    lines = "".join(_line(share) for share in shares)
    st.html(f'<ol style="list-style:none; margin:0; padding:0">{lines}</ol>')


def _line(share: Share) -> str:
    theme = palette()
    colour = share.colour or theme.candidate
    width = f"{100 * min(max(share.probability, 0.0), 1.0):.1f}%"
    bar, rest = (
        translucent(colour, 0.32 if _is_deep(colour) else 0.5),
        translucent(theme.muted, 0.08),
    )
    frame = theme.truth if share.marked else "transparent"
    style = (
        f"display:flex; gap:.7rem; align-items:center; padding:.26rem .55rem; margin:.18rem 0; "
        f"border:1.5px solid {frame}; border-radius:.45rem; font-size:.875rem; line-height:1.35; "
        f"background:linear-gradient(90deg, {bar} {width}, {rest} {width}) border-box"
    )
    swatch = (
        f'<i style="flex:none; width:.7rem; height:.7rem; border-radius:50%; '
        f'border:1px solid {theme.border}; background:{colour}"></i>'
        if share.colour
        else ""
    )
    return (
        f'<li title="{html.escape(share.hint)}" style="{style}">{swatch}'
        f'<span style="flex:1; overflow-wrap:anywhere">{html.escape(share.label)}</span>'
        f"<b>{percent(share.probability)}</b></li>"
    )


def _is_deep(colour: str) -> bool:
    """Whether text on a strong tint of this colour would be hard to read."""
    red, green, blue = rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 150


LAYERS = ("Radius", "Candidates", "Heatmap")
"""What may be drawn besides the pins."""

_LISTED = 6
"""How many photos the label of a shared pin names."""

_NOTABLE = 0.02
"""Probability from which a candidate belongs into the first view."""

DETAILED = 6
"""Up to so many predictions have their radius drawn; with more, the map would be all circles."""


def prediction_map(
    predictions: Sequence[Prediction],
    numbers: Sequence[int],
    layers: Sequence[str] = ("Radius", "Candidates"),
) -> OfflineMap:
    """A map of one or more predictions.

    Args:
        predictions: what to show; none gives the plain world.
        numbers: the number of each one's card.
        layers: which of ``LAYERS`` to draw.

    With one prediction its candidates and both circles are drawn; with several, pins with the
    circles of 50 %, so that they can be told apart.
    """
    alone = len(predictions) == 1
    circles = "Radius" in layers and len(predictions) <= DETAILED
    world = OfflineMap(
        [point for prediction in predictions for point in _focus(prediction, circles, alone)],
        middle=geometry.middle_longitude([prediction.longitude for prediction in predictions]),
    )
    legend: dict[str, str] = {}
    if "Heatmap" in layers and predictions:
        posterior = _together([prediction.posterior for prediction in predictions])
        image = heat_image(posterior, world.window, world.colours.candidate)
        world.add_image(image, world.window, "Heatmap", opacity=0.85)
        legend["Probability"] = translucent(world.colours.candidate, 0.45)
    for prediction in predictions:
        if circles:
            _add_circles(world, prediction, alone)
            legend["Half of such photos (dashed: 90 %)" if alone else "Half of such photos"] = (
                translucent(world.colours.best, 0.35)
            )
        if "Candidates" in layers and alone:
            for rank, candidate in enumerate(prediction.candidates, 1):
                label = f"{rank}. {candidate.place.label}\n{percent(candidate.probability)}"
                at = (candidate.latitude, candidate.longitude)
                world.add_point(at, "candidate", label, share=candidate.probability)
    for prediction in predictions:
        _add_truth(world, prediction)
    for spot in _spots(predictions, numbers):
        labels = [f"{n} · {describe(prediction)}" for n, prediction in spot[:_LISTED]]
        if len(spot) > _LISTED:
            labels.append(f"and {len(spot) - _LISTED} more")
        best = spot[0][1]
        pin = _pin_text([n for n, _ in spot])
        world.add_point((best.latitude, best.longitude), "best", "\n".join(labels), text=pin)
    return world.finish(legend)


def _spots(
    predictions: Sequence[Prediction], numbers: Sequence[int]
) -> list[list[tuple[int, Prediction]]]:
    """Predictions gathered by their point: models that answer with known places repeat them."""
    spots: dict[tuple[float, float], list[tuple[int, Prediction]]] = {}
    for number, prediction in zip(numbers, predictions, strict=True):
        point = (round(prediction.latitude, 3), round(prediction.longitude, 3))
        spots.setdefault(point, []).append((number, prediction))
    return list(spots.values())


def _pin_text(numbers: Sequence[int]) -> str:
    if len(numbers) <= 3:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]} +{len(numbers) - 1}"


def describe(prediction: Prediction) -> str:
    """The label of a pin: name, place and radius."""
    half, most = prediction.radius_km[0.5], prediction.radius_km[0.9]
    return (
        f"{prediction.file}\nEstimate: {prediction.place.label}\n"
        f"50 % within {kilometres(half)}, 90 % within {kilometres(most)}"
    )


def heat_image(posterior: Posterior, window: geometry.Window, colour: str) -> NDArray[np.uint8]:
    """A posterior as an image for ``OfflineMap.add_image``: the denser, the less clear."""
    density = _density(posterior, window)
    share = (density / max(density.max(), 1e-300)) ** 0.65  # faint tails still show
    image = np.empty((*share.shape, 4), dtype=np.uint8)
    image[..., :3] = rgb(colour)
    image[..., 3] = np.round(235 * np.clip((share - 0.04) / 0.96, 0, 1))
    return image


@lru_cache(maxsize=32)
def _density(posterior: Posterior, window: geometry.Window) -> NDArray[np.float64]:
    """Density on the lattice of a window, interpolated from a grid of 240 columns or more."""
    step = min(1.0, (window.east - window.west) / 240)
    bounds = (window.south, window.west, window.north, window.east)
    grid = posterior.density_grid(step, bounds)
    lattice = window.lattice(720)
    longitude = window.west + (lattice[0, :, 1] - window.west) % 360
    interpolate = RegularGridInterpolator(
        (grid.latitudes, grid.longitudes), grid.density, bounds_error=False, fill_value=None
    )
    mesh = np.meshgrid(lattice[:, 0, 0], longitude, indexing="ij")
    return np.maximum(interpolate(tuple(mesh)), 0.0)


def _together(posteriors: Sequence[Posterior]) -> Posterior:
    """The mixture of several posteriors, each with the same weight."""
    if len(posteriors) == 1:
        return posteriors[0]
    return _mixture(tuple(posteriors))


@lru_cache(maxsize=8)
def _mixture(posteriors: tuple[Posterior, ...]) -> Posterior:
    return Posterior(
        np.concatenate([posterior.points for posterior in posteriors]),
        np.concatenate([posterior.log_weights for posterior in posteriors]),
        float(np.median([posterior.bandwidth_km for posterior in posteriors])),
    )


def _focus(prediction: Prediction, circles: bool, candidates: bool) -> list[geometry.Coordinate]:
    best = (prediction.latitude, prediction.longitude)
    points = [best]
    if prediction.error_km is not None and prediction.exif is not None:
        points.append((float(prediction.exif.latitude or 0), float(prediction.exif.longitude or 0)))
    if circles or candidates:
        points += geometry.around(best, prediction.radius_km[0.5])
    if candidates:
        points += [
            (c.latitude, c.longitude) for c in prediction.candidates if c.probability > _NOTABLE
        ]
    return points


def _add_circles(world: OfflineMap, prediction: Prediction, both: bool) -> None:
    best = (prediction.latitude, prediction.longitude)
    half, most = prediction.radius_km[0.5], prediction.radius_km[0.9]
    if both:
        label = f"90 %: within {kilometres(most)} of the best guess"
        world.add_circle(best, most, world.colours.best, label, dashed=True)
    label = f"50 %: within {kilometres(half)} of the best guess"
    world.add_circle(best, half, world.colours.best, label)


def _add_truth(world: OfflineMap, prediction: Prediction) -> None:
    if prediction.error_km is None or prediction.exif is None:
        return
    truth = (float(prediction.exif.latitude or 0), float(prediction.exif.longitude or 0))
    away = f"{prediction.file}\nPosition in its EXIF, {kilometres(prediction.error_km)} away"
    world.add_line((prediction.latitude, prediction.longitude), truth, away)
    world.add_point(truth, "truth", away)


PER_PAGE = 8
_THUMBNAILS = 6
"""Pictures shown of several photos of one place."""


def prediction_cards(
    groups: Sequence[Sequence[TrayPhoto]],
    rows: Sequence[Prediction | Failure],
    numbers: Sequence[int],
) -> None:
    """Cards below each other, by pages where there are many.

    Args:
        groups: the photos of each card.
        rows: the answer for each, or why there is none.
        numbers: the number that each card shares with its pin.
    """
    first = 0
    if len(groups) > PER_PAGE:
        pages = -(-len(groups) // PER_PAGE)
        first = PER_PAGE * (st.pagination(pages, key=f"pages of {len(groups)} cards") - 1)
    alone = len(groups) == 1
    for position in range(first, min(first + PER_PAGE, len(groups))):
        card(groups[position], rows[position], numbers[position], open_list=alone)


def card(
    group: Sequence[TrayPhoto], row: Prediction | Failure, number: int, *, open_list: bool = False
) -> None:
    """The card of one photo, or of several photos of one place.

    Args:
        group: its photos.
        row: the answer, or why there is none.
        number: the number of its pin.
        open_list: whether the list of candidates is open at first.
    """
    with st.container(border=True, key=f"card-{number}"):
        if isinstance(row, Failure):
            st.caption(f"{number} · {markdown_text(row.file)}")
            st.error(markdown_text(row.error), icon=":material/broken_image:")
        else:
            _estimate(group, row, number)
            with st.expander(_candidates_title(row), expanded=open_list):
                probability_list(_candidate_lines(row))
                if row.candidates[0].probability < max(c.probability for c in row.candidates):
                    st.caption(
                        "The best guess is the point from which the likely places are nearest: "
                        "not always the likeliest of them."
                    )
        with st.container(
            horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
        ):
            if isinstance(row, Prediction):
                st.caption(f"Estimated by {markdown_text(row.model)} in {row.seconds:.2f} s")
                if len(group) == 1:
                    _why(group[0], number)
            if not group[0].example:
                digests = [photo.digest for photo in group]
                st.button(
                    "Remove",
                    key=f"remove {number} {digests[0]}",
                    icon=":material/close:",
                    type="tertiary",
                    on_click=_remove,
                    args=(digests,),
                )


def _estimate(group: Sequence[TrayPhoto], prediction: Prediction, number: int) -> None:
    picture, facts = st.columns([2, 3], vertical_alignment="center")
    with picture:
        _thumbnails(group)
    with facts:
        st.caption(f"{number} · {markdown_text(prediction.file)}")
        st.markdown(f"**{markdown_text(prediction.place.label)}**")
        st.code(f"{prediction.latitude:.4f}, {prediction.longitude:.4f}", language=None)
    st.markdown(radius_sentence(prediction))
    st.markdown(_exif_sentence(prediction))


def _thumbnails(group: Sequence[TrayPhoto]) -> None:
    pictures = {}
    for photo in group:
        try:
            pictures[photo.name] = thumbnail(photo)
        except PhotoError:  # its own card says so; among others of one place it is left out
            continue
    shown = list(pictures)[:_THUMBNAILS]
    st.image(
        [pictures[name] for name in shown],
        width="stretch" if len(pictures) == 1 else 72,
        alt=[f"The photo {name}" for name in shown],
    )
    if len(pictures) > len(shown):
        st.caption(f"and {len(pictures) - len(shown)} more")


def radius_sentence(prediction: Prediction) -> str:
    """How far off the guess may be, in Markdown."""
    half, most = kilometres(prediction.radius_km[0.5]), kilometres(prediction.radius_km[0.9])
    text = (
        f":orange[:material/adjust:] Half of such photos lie within **{half}** of the guess, "
        f"nine of ten within **{most}**"
    )
    text += "." if prediction.calibrated else " (not calibrated, so probably farther)."
    return text + (" It is **not sure** even of the continent." if prediction.unsure else "")


def _exif_sentence(prediction: Prediction) -> str:
    exif = prediction.exif
    if prediction.error_km is None or exif is None:
        return ":gray[:material/location_off: No position in its EXIF to compare with.]"
    text = (
        f":green[:material/location_on:] Its EXIF says {exif.latitude:.4f}, {exif.longitude:.4f}: "
        f"the guess is **{kilometres(prediction.error_km)}** off."
    )
    # Nobody guesses to the metre: then the photo was among those that the model learnt from.
    return text + (" It probably learnt from this photo." if prediction.error_km < 0.05 else "")


def _candidates_title(prediction: Prediction) -> str:
    count = len(prediction.candidates)
    return f"{count} candidates" if count > 1 else "1 candidate"


def _candidate_lines(prediction: Prediction) -> list[Share]:
    colours = palette()
    return [
        Share(
            candidate.place.label,
            candidate.probability,
            colour=colours.best if rank == 0 else colours.candidate,
            hint=f"{candidate.latitude:.4f}, {candidate.longitude:.4f}",
        )
        for rank, candidate in enumerate(prediction.candidates)
    ]


def _why(photo: TrayPhoto, number: int) -> None:
    pressed = st.button(
        "Why?",
        key=f"why {number} {photo.digest}",
        icon=":material/help_center:",
        type="tertiary",
        help="What the model reads in the photo, and where in it",
    )
    if pressed:
        st.session_state[CONTEXT_PHOTO] = photo.digest
        st.switch_page(page_names()["Context heads"])


def _remove(digests: Sequence[str]) -> None:
    for digest in digests:
        photo_tray().remove(digest)
