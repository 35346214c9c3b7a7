"""Predictions on the page: map with pins, cards, lists of probabilities, downloads."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from geoclip_core.earth.sphere import middle_longitude
from geoclip_core.errors import PhotoError
from geoclip_core.evaluation.small_map import thumbnail as dataset_thumbnail
from geoclip_core.explain import PLACE
from geoclip_core.formats import Row, to_csv, to_geojson, to_kml
from geoclip_core.model.posterior import Posterior
from geoclip_core.prediction import Claim, Failure, Prediction
from ui import geometry
from ui.geometry import Coordinate
from ui.maps import OfflineMap
from ui.models import ServedModel
from ui.page import CONTEXT_PHOTO, PAGES, is_public
from ui.photos import TrayPhoto, photo_tray, thumbnail
from ui.reasons import why
from ui.theme import kilometres, markdown_text, palette, percent, rgb, translucent

LAYERS = ("Radius", "Candidates", "Heatmap")
"""What a map can show besides the pins."""

_IN_VIEW = 0.02
"""The first view of the map includes the candidates above this probability."""

_MOST_CIRCLES = 6
"""With more predictions, circles would cover the map, so none are drawn."""

_CARDS_PER_PAGE = 8
_THUMBNAILS_PER_CARD = 6

_VERDICTS = {
    "fits": ("The photo fits", ":material/join_inner:"),
    "cannot be ruled out": ("The photo cannot rule out", ":material/help:"),
    "speaks against it": ("The photo speaks against", ":material/join:"),
}
"""Verdict -> beginning of the sentence on the card, and its icon. None is red or green: the answer
is evidence, not truth."""

_FORMATS = (
    ("CSV", "csv", to_csv, "text/csv"),
    ("GeoJSON", "geojson", to_geojson, "application/geo+json"),
    ("KML", "kml", to_kml, "application/vnd.google-earth.kml+xml"),
)


def exif_position(prediction: Prediction) -> Coordinate | None:
    """Return the position in the photo's EXIF, or None."""
    exif = prediction.exif
    if exif is None or exif.latitude is None or exif.longitude is None:
        return None
    return exif.latitude, exif.longitude


def prediction_map(
    predictions: Sequence[Prediction], numbers: Sequence[int], layers: Sequence[str]
) -> OfflineMap:
    """Return a map of predictions; ``numbers`` are those of their cards.

    ``layers`` says which of ``LAYERS`` to draw. Candidates and 90 % circles are drawn for a single
    prediction only.
    """
    alone = len(predictions) == 1
    circles = "Radius" in layers and len(predictions) <= _MOST_CIRCLES
    world = OfflineMap(
        [point for prediction in predictions for point in _focus(prediction, circles, alone)],
        middle_longitude([prediction.longitude for prediction in predictions]),
        [point for prediction in predictions for point in pin_points(prediction)],
    )
    if not predictions:
        return world
    colours = world.colours
    world.legend["Best guess"] = colours.best
    if "Heatmap" in layers:
        add_heatmap(world, predictions)
    if circles:
        line = "50 % radius (dashed: 90 %)" if alone else "50 % radius"
        world.legend[line] = translucent(colours.best, 0.35)
        for prediction in predictions:
            _add_circles(world, prediction, alone)
    if alone and "Candidates" in layers:
        for rank, candidate in enumerate(predictions[0].candidates, 1):
            label = f"{rank}. {candidate.place.label}\n{percent(candidate.probability)}"
            point = candidate.latitude, candidate.longitude
            world.add_candidate(point, candidate.probability, label)
    add_dots(world, predictions)
    for number, prediction in zip(numbers, predictions, strict=True):
        point = prediction.latitude, prediction.longitude
        label = f"{number} · {_pin_label(prediction)}"
        world.add_pin(point, str(number), colours.best, label, card_key(number))
    return world


def add_dots(world: OfflineMap, predictions: Sequence[Prediction]) -> None:
    """Add similar training photos, old pins, claims and true places; the truth on top.

    All but the training photos have lines to the estimates.
    """
    for add in (_add_similar, _add_before, _add_claim, _add_truth):
        for prediction in predictions:
            add(world, prediction)


def add_heatmap(world: OfflineMap, predictions: Sequence[Prediction]) -> None:
    """Add where the photos may have been taken, the mean over predictions, as an image."""
    colour = world.colours.candidate
    posterior = _mixture(tuple(prediction.posterior for prediction in predictions))
    world.add_image(_heat_image(posterior, world.window, colour), "Heatmap", 0.85)
    world.legend["Probability"] = translucent(colour, 0.45)


def layer_switches(predictions: int, compared: bool = False) -> list[str]:
    """Draw a switch for each of ``LAYERS``; return those that are on.

    A switch that would draw nothing for so many predictions is off and disabled.
    """
    useless = {}
    if not predictions:
        useless = dict.fromkeys(LAYERS, "There is no estimate to draw.")
    elif compared:
        useless["Candidates"] = "Each model lists its candidates below."
    elif predictions > 1:
        useless["Candidates"] = "Drawn for one photo at a time."
        if predictions > _MOST_CIRCLES:
            useless["Radius"] = (
                f"Drawn for up to {_MOST_CIRCLES} photos: more circles hide the map."
            )
    chosen = []
    with st.container(horizontal=True):
        for layer in LAYERS:
            if layer in useless:
                st.toggle(layer, False, key=f"no {layer}", disabled=True, help=useless[layer])
            elif st.toggle(
                layer, layer != "Heatmap", key=f"layer {layer}", persist_state="session"
            ):
                chosen.append(layer)
    return chosen


def card_key(number: int) -> str:
    """Return the key of the container of a card."""
    return f"card-{number}"


def pin_points(prediction: Prediction) -> list[Coordinate]:
    """Return where pins and dots are that a map should show: estimate, truth, claim, old pin."""
    points = [(prediction.latitude, prediction.longitude)]
    if (truth := exif_position(prediction)) is not None:
        points.append(truth)
    if prediction.claim is not None:
        points.append((prediction.claim.latitude, prediction.claim.longitude))
    if prediction.without_given is not None:
        points.append((prediction.without_given.latitude, prediction.without_given.longitude))
    return points


def _focus(prediction: Prediction, circles: bool, candidates: bool) -> list[Coordinate]:
    best = prediction.latitude, prediction.longitude
    points = pin_points(prediction)
    if circles or candidates:
        points += geometry.around(best, prediction.radius_km[0.5])
    if candidates:
        points += [
            (c.latitude, c.longitude) for c in prediction.candidates if c.probability > _IN_VIEW
        ]
    return points


def _heat_image(posterior: Posterior, window: geometry.Window, colour: str) -> NDArray[np.uint8]:
    """Return a posterior as RGBA pixels, more opaque where it is denser."""
    density = _density(posterior, window)
    share = (density / max(density.max(), 1e-300)) ** 0.65  # keeps low densities visible
    image = np.empty((*share.shape, 4), dtype=np.uint8)
    image[..., :3] = rgb(colour)
    image[..., 3] = np.round(235 * np.clip((share - 0.04) / 0.96, 0, 1))
    return image


@lru_cache(maxsize=32)
def _density(posterior: Posterior, window: geometry.Window) -> NDArray[np.float64]:
    """Return the density on a window's lattice, interpolated from at least 240 columns."""
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


@lru_cache(maxsize=8)
def _mixture(posteriors: tuple[Posterior, ...]) -> Posterior:
    """Return the mixture of one or more posteriors with equal weights."""
    if len(posteriors) == 1:
        return posteriors[0]
    return Posterior(
        np.concatenate([posterior.points for posterior in posteriors]),
        np.concatenate([posterior.log_weights for posterior in posteriors]),
        float(np.median([posterior.bandwidth_km for posterior in posteriors])),
    )


def _add_circles(world: OfflineMap, prediction: Prediction, both: bool) -> None:
    best = prediction.latitude, prediction.longitude
    half, most = prediction.radius_km[0.5], prediction.radius_km[0.9]
    if both:
        label = f"90 %: within {kilometres(most)} of the best guess"
        world.add_circle(best, most, world.colours.best, label, dashed=True)
    label = f"50 %: within {kilometres(half)} of the best guess"
    world.add_circle(best, half, world.colours.best, label)


def _add_similar(world: OfflineMap, prediction: Prediction) -> None:
    for one in prediction.similar.photos if prediction.similar is not None else ():
        label = f"{prediction.file}\nA training photo like it: {one.place.label}"
        world.add_similar((one.latitude, one.longitude), label)


def _add_truth(world: OfflineMap, prediction: Prediction) -> None:
    truth, error = exif_position(prediction), prediction.error_km
    if truth is None or error is None:
        return
    label = f"{prediction.file}\n{truth_name(prediction)}, {kilometres(error)} from the estimate"
    world.add_line((prediction.latitude, prediction.longitude), truth, label)
    world.add_truth(truth, label)


def _add_claim(world: OfflineMap, prediction: Prediction) -> None:
    claim = prediction.claim
    if claim is None:
        return
    place = claim.latitude, claim.longitude
    label = f"{prediction.file}\nClaim: {claim.name}\n{claim.verdict}"
    world.add_line((prediction.latitude, prediction.longitude), place, label)
    world.add_claim(place, label)


def _add_before(world: OfflineMap, prediction: Prediction) -> None:
    """Add where the estimate was without what is given as known, and a line from there."""
    before, said = prediction.without_given, prediction.hint_sentence
    if before is None or said is None:
        return
    place = before.latitude, before.longitude
    world.add_line(place, (prediction.latitude, prediction.longitude), said)
    world.add_before(place, f"{prediction.file}\n{said}")


def _pin_label(prediction: Prediction) -> str:
    half, most = prediction.radius_km[0.5], prediction.radius_km[0.9]
    return (
        f"{prediction.file}\n{prediction.headline}\nEstimate: {prediction.place.label}\n"
        f"50 % within {kilometres(half)}, 90 % within {kilometres(most)}"
    )


Card = tuple[Sequence[TrayPhoto], Prediction | Failure, int]
"""Photos of one place, their row, and the number of their pin."""


def prediction_cards(model: ServedModel, cards: Sequence[Card]) -> None:
    """Draw cards, on several pages if there are many.

    Each card shows the number of its pin, and the prediction or the reason why there is none.
    """
    first = 0
    if len(cards) > _CARDS_PER_PAGE:
        pages = -(-len(cards) // _CARDS_PER_PAGE)
        page = st.pagination(pages, key=_pages_key(len(cards)))
        first = _CARDS_PER_PAGE * (page - 1)
    for card in cards[first : first + _CARDS_PER_PAGE]:
        _card(model, *card, len(cards) == 1)


def _pages_key(cards: int) -> str:
    return f"pages of {cards} cards"


def show_card(card: str, positions: Sequence[int]) -> None:
    """Turn to the page with a card, by the key of its container; cards have these positions."""
    number = card.removeprefix("card-")
    if number.isdecimal() and int(number) - 1 in positions:
        page = 1 + positions.index(int(number) - 1) // _CARDS_PER_PAGE
        st.session_state[_pages_key(len(positions))] = page


def _card(
    model: ServedModel,
    group: Sequence[TrayPhoto],
    row: Prediction | Failure,
    number: int,
    list_open: bool,
) -> None:
    with st.container(border=True, key=card_key(number)):
        if isinstance(row, Failure):
            st.caption(f"{number} · {markdown_text(row.file)}")
            st.error(markdown_text(row.error), icon=":material/broken_image:")
        else:
            _estimate(group, row, number)
            count = len(row.candidates)
            title = f"{count} candidates" if count > 1 else "1 candidate"
            with st.expander(title, expanded=list_open):
                candidate_list(row, palette().best)
                if row.candidates[0].probability < max(c.probability for c in row.candidates):
                    st.caption(
                        "The pin balances all candidates, so it need not be the likeliest one."
                    )
            if len(group) == 1:
                similar_photos(group[0], row, str(number))
        card_actions(model, group, row, str(number))


def card_actions(
    model: ServedModel, group: Sequence[TrayPhoto], row: Prediction | Failure, key: str
) -> None:
    """Draw the end of a card: model and time, "What it reads", "Remove" and "Why?"."""
    if len(group) > 1:
        _photo_list(group, row, key)
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        if isinstance(row, Prediction):
            st.caption(f"Estimated by {markdown_text(row.model)} in {row.seconds:.2f} s")
            if len(group) == 1:
                _heads_button(group[0], key)
        if len(group) == 1 and not group[0].example:
            _remove_button(group[0], key)
    if isinstance(row, Prediction) and len(group) == 1:
        why(model, group[0], PLACE, f"card {key}")


def _remove_button(photo: TrayPhoto, key: str) -> None:
    st.button(
        "Remove",
        key=f"remove {key} {photo.digest}",
        icon=":material/close:",
        type="tertiary",
        on_click=photo_tray().remove,
        args=(photo.digest,),
        help=f"Remove {markdown_text(photo.name)}",
    )


def _photo_list(group: Sequence[TrayPhoto], row: Prediction | Failure, key: str) -> None:
    """Draw the photos of one place, each with "Remove", and whether they fit together."""
    misfits = row.misfits if isinstance(row, Prediction) else ()
    if misfits:
        names = ", ".join(markdown_text(name) for name in misfits)
        st.warning(
            f"These photos do not fit together: {len(misfits)} of {len(group)} "
            f"({names}) would not be expected at this place. Were all taken there?",
            icon=":material/call_split:",
        )
    with st.expander(f"{len(group)} photos", expanded=bool(misfits)):
        for photo in group:
            with st.container(horizontal=True, vertical_alignment="center"):
                fits = " · does not fit" if photo.name in misfits else ""
                st.markdown(f"{markdown_text(photo.name)}{fits}", width="stretch")
                _remove_button(photo, key)


def with_similar(
    model: ServedModel, photo: TrayPhoto, prediction: Prediction, key: str
) -> Prediction:
    """Return a prediction with the training photos like a photo if `similar_photos` shows them.

    They are searched for when the list is opened: the first search may read a large dataset.
    """
    if not st.session_state.get(_similar_key(photo, key)):
        return prediction
    with st.spinner("Searching the training photos …"):
        return replace(prediction, similar=model.similar(photo, prediction))


def _similar_key(photo: TrayPhoto, key: str) -> str:
    return f"similar {key} {photo.digest}"


def similar_photos(photo: TrayPhoto, prediction: Prediction, key: str) -> None:
    """Draw a closed list of the training photos that look most like a photo."""
    box = st.expander(
        "Looks like these",
        icon=":material/image_search:",
        key=_similar_key(photo, key),
        on_change="rerun",
    )
    found = prediction.similar
    if not box.open or found is None:
        return
    with box:
        for one in found.photos:
            picture = None
            if one.root is not None and not is_public():
                picture = dataset_thumbnail(str(one.root), one.path)
            with st.container(horizontal=True, vertical_alignment="center"):
                if picture is not None:
                    st.image(picture, width=96, alt=f"A training photo: {one.place.label}")
                share = Share(
                    f"{one.place.label}, {kilometres(one.distance_km)} from the pin",
                    max(one.similarity, 0.0),
                    hint=f"{one.latitude:.4f}, {one.longitude:.4f}",
                    shown=f"{one.similarity:.2f}",
                    at=(one.latitude, one.longitude),
                )
                probability_list([share])
        if found.photos:
            st.caption(
                "The training photos with the most similar embeddings; 1.00 is the same photo. "
                "Click a place to see it on the map."
            )
        if found.note:
            st.caption(f":material/info: {markdown_text(found.note)}")


def _estimate(group: Sequence[TrayPhoto], prediction: Prediction, number: int) -> None:
    picture, facts = st.columns([2, 3], vertical_alignment="center")
    with picture:
        _thumbnails(group)
    with facts:
        st.caption(f"{number} · {markdown_text(prediction.file)}")
        headline(prediction)
    answer_details(prediction)
    st.markdown(_gps_sentence(prediction, len(group)))
    if len(group) == 1 and (taken := _metadata_sentence(prediction)):
        st.markdown(f":gray[:material/photo_camera: {taken}]")


def headline(prediction: Prediction) -> None:
    """Draw the answer in words, at the level that is known."""
    unbroken = prediction.headline.replace(" %", "\u00a0%")
    st.markdown(f"#### {markdown_text(unbroken)}")


def answer_details(prediction: Prediction) -> None:
    """Draw all but the headline: warning, claim, levels, town, coordinates, radius, domain."""
    if prediction.warning is not None:
        st.warning(markdown_text(prediction.warning), icon=":material/warning:")
    if prediction.hint_sentence is not None:
        st.markdown(f":material/moving: {markdown_text(prediction.hint_sentence)}")
    if prediction.claim is not None:
        claim_answer(prediction.claim)
    probability_list(
        [
            Share(
                level.short,
                level.probability,
                hint=f"{level.level}: {level.name}",
                shown=level.percent,
            )
            for level in prediction.ladder
        ]
    )
    st.caption(f"The pin: {markdown_text(prediction.place.label)}")
    # wrapped, so that nothing is cut off; Tab and Enter copy it
    position = f"{prediction.latitude:.4f}, {prediction.longitude:.4f}"
    st.code(position, language=None, wrap_lines=True)
    st.markdown(radius_sentence(prediction))
    if prediction.domain is not None and prediction.warning is None:  # which says it as well
        words = markdown_text(f"{prediction.model} {prediction.domain.words}")
        st.caption(f":material/school: {words}.")


def claim_answer(claim: Claim) -> None:
    """Draw what the photo says about a claimed place, in the words of the library."""
    words, icon = _VERDICTS[claim.verdict]
    with st.container(border=True):
        st.markdown(f"{icon} {words} **{markdown_text(claim.name)}**.")
        lines = "\n".join(f"- {markdown_text(line)}" for line in claim.sentences)
        st.caption(f"{lines}\n\nThis is evidence, not proof.")


def _metadata_sentence(prediction: Prediction) -> str:
    """Return when and with what the photo was taken, in Markdown; "" if it does not say."""
    exif = prediction.exif
    if exif is None:
        return ""
    when = ""
    if exif.captured_at is not None:
        zone = " UTC" if exif.captured_at.tzinfo is not None else ""
        when = f"{exif.captured_at:%Y-%m-%d %H:%M}{zone}"
    return " · ".join(markdown_text(part) for part in (when, exif.camera) if part)


def _thumbnails(group: Sequence[TrayPhoto]) -> None:
    pictures = {}
    for photo in group:
        try:
            pictures[photo.name] = thumbnail(photo)
        except PhotoError:  # shown on its own card; left out among several photos of one place
            continue
    shown = list(pictures)[:_THUMBNAILS_PER_CARD]
    st.image(
        [pictures[name] for name in shown],
        width="stretch" if len(pictures) == 1 else 72,
        alt=[f"The photo {name}" for name in shown],
    )
    if len(pictures) > len(shown):
        st.caption(f"and {len(pictures) - len(shown)} more")


def radius_sentence(prediction: Prediction) -> str:
    """Say how far off the guess may be, in Markdown."""
    half, most = kilometres(prediction.radius_km[0.5]), kilometres(prediction.radius_km[0.9])
    text = (
        f":orange[:material/adjust:] Even odds that it is within **{half}**, 90\u00a0% that it is "
        f"within **{most}**"
    )
    if prediction.radius_note is not None:
        return f"{text}, {markdown_text(prediction.radius_note)}."
    return text + ("." if prediction.calibrated else " (not calibrated, so probably farther).")


def truth_name(prediction: Prediction) -> str:
    """Return what the position in ``exif_position`` is, in plain text."""
    exif = prediction.exif
    if exif is None or exif.source == "EXIF":
        return "GPS of the photo"
    if exif.source == "XMP":
        return "GPS of the photo (in its XMP)"
    return f"Taken at {exif.source}"


def _gps_sentence(prediction: Prediction, photos: int) -> str:
    truth, error = exif_position(prediction), prediction.error_km
    if truth is None or error is None:
        noun = "this photo" if photos == 1 else "these photos"
        return f":gray[:material/location_off: No GPS in {noun}.]"
    text = (
        f":green[:material/location_on:] {markdown_text(truth_name(prediction))}: "
        f"{truth[0]:.4f}, {truth[1]:.4f}; "
        f"the guess is **{kilometres(error)}** off."
    )
    # No model guesses this closely unless it has seen the photo.
    return text + (" It was probably trained on this photo." if error < 0.05 else "")


def _heads_button(photo: TrayPhoto, number: str) -> None:
    pressed = st.button(
        "What it reads",
        key=f"heads {number} {photo.digest}",
        icon=":material/psychology_alt:",
        type="tertiary",
        help="Climate, month and places that the model reads in the photo",
    )
    if pressed:
        st.session_state[CONTEXT_PHOTO] = photo.digest
        st.switch_page(PAGES["Context heads"].file)


@dataclass(frozen=True)
class Share:
    """One line of a list: its label in plain text, its probability (0 to 1), and its looks."""

    label: str
    probability: float
    colour: str | None = None
    """Colour of the bar; by default the blue of candidates."""
    frame: str | None = None
    """Colour of the line's frame, or None."""
    hint: str = ""
    """Shown on hover."""
    shown: str = ""
    """The probability as text; by default as ``percent`` gives it."""
    value: str = ""
    """What a click on the line chooses; "" if nothing (see ``ui.context.class_bars``)."""
    chosen: bool = False
    """Whether the line is chosen."""
    at: Coordinate | None = None
    """A click pans the map there."""


def probability_list(shares: Sequence[Share]) -> None:
    """Draw a list with a bar behind each line; long labels wrap."""
    lines = "".join(_line(share) for share in shares)
    st.html(f'<ol style="list-style:none; margin:0; padding:0">{lines}</ol>')


def candidate_list(prediction: Prediction, best: str) -> None:
    """Draw the candidates of a prediction, the first one in the colour ``best``."""
    shares = [
        Share(
            candidate.place.label,
            candidate.probability,
            colour=palette().candidate if rank else best,
            hint=f"{candidate.latitude:.4f}, {candidate.longitude:.4f}",
            at=(candidate.latitude, candidate.longitude),
        )
        for rank, candidate in enumerate(prediction.candidates)
    ]
    probability_list(shares)


def line_style(share: Share) -> str:
    """Return the style of a line: its bar, its frame, its text."""
    theme = palette()
    colour = share.colour or theme.candidate
    width = f"{100 * min(max(share.probability, 0.0), 1.0):.1f}%"
    red, green, blue = rgb(colour)
    is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 150  # text needs a weaker tint
    bar, rest = translucent(colour, 0.32 if is_dark else 0.5), translucent(theme.muted, 0.08)
    return (
        f"display:flex; gap:.7rem; align-items:center; padding:.26rem .55rem; margin:.18rem 0; "
        f"border:1.5px solid {share.frame or 'transparent'}; border-radius:.45rem; "
        f"font-size:.875rem; line-height:1.35; "
        f"background:linear-gradient(90deg, {bar} {width}, {rest} {width}) border-box"
    )


def swatch_style(share: Share) -> str:
    """Return the style of the dot in a line's colour; "" if it has none."""
    if share.colour is None:
        return ""
    return (
        f"flex:none; width:.7rem; height:.7rem; border-radius:50%; "
        f"border:1px solid {palette().border}; background:{share.colour}"
    )


def _line(share: Share) -> str:
    swatch = f'<i style="{style}"></i>' if (style := swatch_style(share)) else ""
    style, link = line_style(share), ""
    if share.at is not None:
        style += "; cursor:pointer"
        link = f' data-map-at="{share.at[0]:.6f},{share.at[1]:.6f}" role="button" tabindex="0"'
    return (
        f'<li title="{html.escape(share.hint)}" style="{style}"{link}>{swatch}'
        f'<span style="flex:1; overflow-wrap:anywhere">{html.escape(share.label)}</span>'
        f"<b>{html.escape(share.shown or percent(share.probability))}</b></li>"
    )


def download_buttons(rows: Sequence[Row]) -> None:
    """Offer predictions as CSV, GeoJSON and KML; photos that failed are in the CSV only."""
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
