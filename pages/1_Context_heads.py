import streamlit as st

from geoclip_core.errors import PhotoError
from geoclip_core.explain import PLACE
from ui.context import (
    add_belt,
    answers,
    choose_belt,
    clear_overruled,
    features_shown,
    field_letter,
    head_panel,
    model_heading,
    moved_sentence,
    overruled_heads,
)
from ui.maps import OfflineMap, show_map
from ui.model_comparison import apart_sentence, comparison_map
from ui.models import accuracy_sentence, choose_model, choose_sibling, served_model
from ui.page import CONTEXT_PHOTO, choose, open_page
from ui.photos import EXAMPLE_NOTE, photo_input, shown_photos, thumbnail
from ui.reasons import why
from ui.theme import markdown_text

open_page(
    "Context heads",
    "What the model reads in a photo",
    "Each context head guesses one fact from the photo alone. Click a class to overrule the head "
    "and see where the pin moves; click it again to take it back.",
)
with st.sidebar:
    first = choose_model("Model A")
    second = choose_sibling(first)
controls, world = st.columns([2, 3], gap="large")
with controls:
    photo_input()
    photos = {photo.digest: photo for photo in shown_photos()}
    digest = next(iter(photos))
    if len(photos) > 1:
        chosen = choose("Photo", list(photos), CONTEXT_PHOTO, format_func=lambda d: photos[d].name)
        digest = chosen or digest
    photo = photos[digest]
models = [model for name in (first, second) if name and (model := served_model(name))]
if not models:
    with world:
        show_map(OfflineMap())
    st.stop()

given = overruled_heads(photo)
try:
    with controls:
        st.image(thumbnail(photo), width="stretch", alt=f"The photo {photo.name}")
        st.caption(EXAMPLE_NOTE if photo.example else markdown_text(photo.name))
        for model in models:
            st.caption(f":material/info: {accuracy_sentence(model.locator)}")
    with world:
        switchable = any(model.locator.has_context_switch for model in models)
        context_off = switchable and st.toggle(
            "Also show the answer with context off",
            key="context off",
            persist_state="session",
            help="The same model, but its coordinate head is given a context that says nothing.",
        )
        found = [answers(model, photo, given, context_off) for model in models]
except PhotoError as error:
    st.error(markdown_text(str(error)), icon=":material/broken_image:")
    st.stop()

predictions = [with_context for with_context, _ in found]
with world:
    guesses_map = comparison_map(predictions, [without for _, without in found])
    if belt := choose_belt(predictions[0]):
        add_belt(guesses_map, belt)
    show_map(guesses_map)
    if given:
        for letter, model, prediction in zip("AB", models, predictions, strict=False):
            if moved := moved_sentence(prediction, letter, model):
                st.markdown(moved)
        st.button(
            "Take everything back",
            icon=":material/undo:",
            on_click=clear_overruled,
            args=(photo,),
            help="The heads count again as they read the photo.",
        )
    if len(predictions) == 2:
        st.markdown(apart_sentence(*predictions))

features = features_shown(*(p.context for p in predictions)) or ["climate", "country"]
panels = list(zip("AB", models, predictions, strict=False))
headings = st.columns(2) if len(panels) == 2 else [st.container()]
for column, (letter, model, prediction), (_, without) in zip(headings, panels, found, strict=True):
    with column:
        model_heading(prediction, letter, without)
        why(model, photo, PLACE, letter)
if len(panels) == 1:
    rows = [
        [(feature, *panels[0]) for feature in features[i : i + 2]]
        for i in range(0, len(features), 2)
    ]
else:
    rows = [[(feature, *panel) for panel in panels] for feature in features]
for row in rows:
    for column, (feature, letter, model, prediction) in zip(st.columns(2), row, strict=False):
        with column:
            with_field = letter == field_letter(feature, panels)
            head_panel(feature, prediction, model, photo, letter, with_field)
