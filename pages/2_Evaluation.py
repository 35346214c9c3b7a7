import streamlit as st

from geoclip_core.evaluation.predictions import PredictionsError
from ui.evaluation import maps, panels, photos
from ui.evaluation.sources import (
    View,
    choose_filters,
    choose_sources,
    clear_filters,
    find_sources,
    table,
)
from ui.page import open_page
from ui.theme import markdown_text

PANELS = {
    "Errors": panels.errors_panel,
    "Error map": maps.map_panel,
    "By place, climate, month": panels.groups_panel,
    "Context heads": panels.heads_panel,
    "Certainty": panels.trust_panel,
    "Difference map": maps.difference_panel,
    "Best and worst": photos.best_and_worst_panel,
    "All rows": photos.rows_panel,
}
FIRST_STEP = "python -m train evaluate --model mini --data FOLDER --split test"
open_page(
    "Evaluation",
    "Evaluation",
    "How far off the estimates are, where, and whether the stated radii can be trusted.",
)

sources, problems = find_sources()
for problem in problems:
    st.sidebar.warning(markdown_text(problem))
if not sources:
    st.info("There are no predictions yet. This command makes them:")
    st.code(FIRST_STEP, language="bash")
    st.stop()

with st.sidebar:
    main, compared = choose_sources(sources)
    with st.expander("Evaluate on OSV-Mini-129k"):
        panels.osv_mini()

try:
    frame = table(main, main)
except PredictionsError as error:
    st.error(markdown_text(str(error)), icon=":material/error:")
    st.stop()
if frame.empty:
    st.info("This table has no rows.")
    st.stop()
filters = choose_filters(frame)
view = View(main, tuple(compared), filters)
with st.container(horizontal=True, vertical_alignment="center"):
    st.markdown(panels.count_line(view), width="stretch")
    st.button(
        "Clear filters", on_click=clear_filters, type="tertiary", icon=":material/filter_alt_off:"
    )
if view.rows().empty:
    st.info("No photo matches the filters. Widen or clear them.")
    st.stop()

for source in view.sources:
    if source.warning:
        text = markdown_text(f"{source.model}: {source.warning}.")
        st.warning(text, icon=":material/warning:")
panels.headline_panel(view)
panels.report_button(view)
tabs = st.tabs(list(PANELS), key="evaluation tab", on_change="rerun")
for tab, show in zip(tabs, PANELS.values(), strict=True):
    if tab.open:
        with tab:
            show(view)
