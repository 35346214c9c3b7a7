import streamlit as st

from geoclip_core.errors import DatasetError
from ui.dataset.explore import explore, load
from ui.dataset.health import health
from ui.dataset.make import first_steps, make, progress_strip
from ui.page import datasets_folder, is_public, open_page
from ui.theme import markdown_text
from ui.training.new import choose_dataset

EXPLORE, CHECK, ADD = "Explore", "Check", "Add a dataset"

open_page(
    "Dataset",
    "The photos behind a model",
    "Explore a dataset before training: where its photos are, which labels they have, and which "
    "rows or files are faulty.",
)
datasets = datasets_folder()
with st.sidebar:
    root = choose_dataset()
if is_public():
    if root is None:
        st.info("There is no dataset to show.")
        st.stop()
    running, offered = [], [EXPLORE, CHECK]
else:
    running, offered = progress_strip(datasets), [EXPLORE, CHECK, ADD]
if st.session_state.get("dataset view", EXPLORE) not in offered:
    del st.session_state["dataset view"]
if root is None:
    chosen = st.session_state.get("dataset")
    if chosen:
        # The sidebar, which may be closed, says what is wrong with the folder that was typed.
        st.error(f"{markdown_text(str(chosen))} cannot be opened: choose another dataset.")
    elif not any(job.command == "demo-data" for job in running):
        first_steps(datasets)
    make(datasets)
    st.stop()

view = st.segmented_control(
    "Show",
    offered,
    default=EXPLORE,
    required=True,
    key="dataset view",
    label_visibility="collapsed",
    persist_state="session",
)
if view == ADD and ADD in offered:
    make(datasets)
elif view == CHECK:
    checking = any(job.command == "doctor" and job.dataset == root.absolute() for job in running)
    health(root, datasets, checking)
else:
    try:
        dataset = load(root)
    except DatasetError as error:
        st.error(markdown_text(str(error)), icon=":material/error:")
        st.markdown(f"**{CHECK}** lists all faults of this dataset.")
        st.stop()
    explore(dataset)
