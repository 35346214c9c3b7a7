import streamlit as st

from ui.page import is_public, open_page
from ui.training.live import failure_panel, live_panel, run_actions, run_head, watch
from ui.training.new import choose_dataset, first_start, new_training
from ui.training.overview import overview
from ui.training.results import result_panel, run_details
from ui.training.runs import choose_run, choose_runs_folder, found_runs, show_problems

ONE, ALL, NEW = "This run", "All runs", "New training"

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

offered = [ONE, ALL] if is_public() else [ONE, ALL, NEW]
if st.session_state.get("train view") not in offered:
    st.session_state["train view"] = ONE
view = st.segmented_control(
    "Show",
    offered,
    required=True,
    key="train view",
    label_visibility="collapsed",
    persist_state="session",
)
if view == NEW and NEW in offered:
    new_training(views, data)
elif view == ALL:
    overview(views)
else:
    run_head(chosen)
    run_actions(root, chosen)
    failure_panel(chosen)
    result_panel(chosen)
    live_panel(chosen)
    run_details(chosen)
