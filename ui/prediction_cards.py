"""One card a photo: what it is, where it may have been taken, and how sure that is."""

from collections.abc import Sequence

import streamlit as st

from geoclip_core.data.photos import PhotoError
from geoclip_core.locator import Failure, Prediction
from ui.page import page_names
from ui.photo_tray import TrayPhoto, photo_tray, thumbnail
from ui.probability_list import Share, probability_list
from ui.session import CONTEXT_PHOTO
from ui.theme import kilometres, markdown_text, palette

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
