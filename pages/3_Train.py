import streamlit as st

from ui.page import is_public, open_page, show_in_address
from ui.training.live import failure_panel, live_panel, run_actions, run_head, watch
from ui.training.new import choose_dataset, first_start, new_training
from ui.training.results import overview, result_panel, run_details
from ui.training.runs import (
    ALL_RUNS,
    NEW_TRAINING,
    ONE_RUN,
    VIEW_KEY,
    VIEWS,
    choose_run,
    choose_runs_folder,
    found_runs,
    show_problems,
)

open_page(
    "Train",
    "Train a model of your own",
    "Choose a recipe and a dataset, and start. Training continues when this page is closed.",
)
with st.sidebar:
    data = choose_dataset()
    place = st.container()
    root = choose_runs_folder()
    views, problems = found_runs(root)
    with place:
        chosen = choose_run(views) if views else None
watch(root, views)
show_problems(problems)
if chosen is None:
    if is_public():
        st.info("There is no run to show.")
    else:
        first_start()
        new_training(views, data)
    st.stop()

offered = [ONE_RUN, ALL_RUNS] if is_public() else list(VIEWS)
if VIEW_KEY not in st.session_state:
    linked = st.query_params.get("show")
    st.session_state[VIEW_KEY] = next((v for v in VIEWS if VIEWS[v] == linked), ONE_RUN)
if st.session_state[VIEW_KEY] not in offered:
    st.session_state[VIEW_KEY] = ONE_RUN
view = st.segmented_control(
    "Show",
    offered,
    required=True,
    key=VIEW_KEY,
    label_visibility="collapsed",
    persist_state="session",
)
assert view is not None  # required above
show_in_address("show", None if view == ONE_RUN else VIEWS[view])
if view == NEW_TRAINING and NEW_TRAINING in offered:
    new_training(views, data)
elif view == ALL_RUNS:
    overview(views)
else:
    run_head(chosen)
    run_actions(root, chosen)
    failure_panel(chosen)
    result_panel(chosen)
    live_panel(chosen)
    run_details(chosen)
