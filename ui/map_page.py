"""The Map page, the first page of the app."""

from collections.abc import Sequence

import streamlit as st

from geoclip_core.formats import Row
from geoclip_core.prediction import Failure, Prediction
from ui.maps import OfflineMap, show_map
from ui.model_comparison import compared_models, model_comparison
from ui.models import (
    ServedModel,
    accuracy_sentence,
    choose_model,
    go_on,
    locate_photos,
    model_downloads,
    served_model,
    stronger_model,
)
from ui.page import open_page, workbench
from ui.photos import EXAMPLE_NOTE, TrayPhoto, lost_photos, photo_input, problem, shown_photos
from ui.predictions import (
    download_buttons,
    layer_switches,
    prediction_cards,
    prediction_map,
    show_card,
    with_similar,
)
from ui.questions import claim_field, hint_fields, usable, with_claims

ALL, EACH, ONE_PLACE = "All photos", "One at a time", "As one place"


def map_page() -> None:
    """Draw the page."""
    open_page(
        "Map",
        "Where was this photo taken?",
        "Drop photos to see where each may have been taken, and how sure the model is.",
    )
    with st.sidebar:
        model_name = choose_model()
        others = compared_models(model_name)
        model_downloads()
    bench = workbench()
    with bench.controls:
        photo_input()
    model = served_model(model_name) if model_name else None
    if model is None:
        with bench.map_side:
            show_map(OfflineMap())
        st.stop()

    if lost := lost_photos():
        with bench.map_side:
            show_map(OfflineMap())
        with bench.cards:
            st.warning(lost, icon=":material/restart_alt:")
        st.stop()

    photos = shown_photos()
    if others:
        model_comparison(bench, model, others, photos)
        st.stop()
    with bench.map_side, st.container(horizontal=True, vertical_alignment="bottom"):
        view = ALL
        if len(photos) > 1:
            view = st.segmented_control(
                "Show",
                [ALL, EACH, ONE_PLACE],
                default=ALL,
                required=True,
                key="view",
                persist_state="session",
                help=f"“{ONE_PLACE}” makes one estimate from all photos together.",
            )
        switches = st.container()
    with bench.map_side:
        claimed = claim_field()
        given = usable(model, hint_fields(model))
    if view == ONE_PLACE:
        readable = [photo for photo in photos if problem(photo) is None]
        rest = [[photo] for photo in photos if photo not in readable]
        groups = [readable, *rest] if readable else rest
    else:
        groups = [[photo] for photo in photos]
    with bench.map_side:
        rows = with_claims(locate_photos(model, groups, given), claimed)
        shown = list(range(len(rows)))
        if view == EACH:
            names = [
                f"{i + 1} · {' + '.join(one.name for one in group)}"
                for i, group in enumerate(groups)
            ]
            shown = [st.selectbox("Photo", shown, format_func=names.__getitem__, key="photo")]
        shown = [i for i in shown if rows[i] is not None]
        seen = {i: _looked_at(model, groups[i], row, i + 1) for i in shown if (row := rows[i])}
        found = [(row, i + 1) for i, row in seen.items() if isinstance(row, Prediction)]
        with switches:
            layers = layer_switches(len(found))
        show_map(
            prediction_map([r for r, _ in found], [n for _, n in found], layers),
            lambda card: show_card(card, shown),
        )
        st.caption(f":material/info: {accuracy_sentence(model.locator)}")
        download_buttons([row for row in rows if row is not None])
    with bench.cards:
        if photos[0].example:
            st.caption(EXAMPLE_NOTE)
            if stronger := stronger_model():
                st.caption(f":material/cloud_download: {stronger}")
        prediction_cards(model, [(groups[i], row, i + 1) for i, row in seen.items()])
    go_on()


def _looked_at(model: ServedModel, group: Sequence[TrayPhoto], row: Row, number: int) -> Row:
    """Return a row with the similar training photos that its card shows."""
    if isinstance(row, Failure) or len(group) > 1:
        return row
    return with_similar(model, group[0], row, str(number))
