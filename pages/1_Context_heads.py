import streamlit as st

from geoclip_core.errors import PhotoError
from ui.context import (
    add_belt,
    choose_belt,
    features_shown,
    head_panel,
    model_heading,
    reasons,
)
from ui.maps import OfflineMap, show_map
from ui.model_comparison import apart_sentence, comparison_map
from ui.models import accuracy_sentence, choose_model, served_model
from ui.page import CONTEXT_PHOTO, choose, open_page
from ui.photos import EXAMPLE_NOTE, photo_input, shown_photos, thumbnail
from ui.theme import markdown_text

open_page(
    "Context heads",
    "What the model reads in a photo",
    "Each context head guesses one fact from the photo alone. A green frame marks what the map "
    "says at the predicted point, so that you can compare the two.",
)
with st.sidebar:
    first = choose_model("Model A")
    second = choose_model("Model B, to compare with", "second model", "mini-plain", optional=True)
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

try:
    with controls:
        st.image(thumbnail(photo), width="stretch", alt=f"The photo {photo.name}")
        st.caption(EXAMPLE_NOTE if photo.example else markdown_text(photo.name))
        for model in models:
            st.caption(f":material/info: {accuracy_sentence(model.locator)}")
    predictions = [model.locate([photo]) for model in models]
except PhotoError as error:
    st.error(markdown_text(str(error)), icon=":material/broken_image:")
    st.stop()

with world:
    guesses_map = comparison_map(predictions)
    if belt := choose_belt(predictions[0]):
        add_belt(guesses_map, belt)
    show_map(guesses_map)
    if len(predictions) == 2:
        st.markdown(apart_sentence(*predictions))

features = features_shown(*(p.context for p in predictions)) or ["climate", "country"]
panels = list(zip("AB", models, predictions, strict=False))
if len(panels) == 1:
    model_heading(predictions[0], "A")
    rows = [
        [(feature, *panels[0]) for feature in features[i : i + 2]]
        for i in range(0, len(features), 2)
    ]
else:
    for column, (letter, _, prediction) in zip(st.columns(2), panels, strict=True):
        with column:
            model_heading(prediction, letter)
    rows = [[(feature, *panel) for panel in panels] for feature in features]
for row in rows:
    for column, (feature, letter, model, prediction) in zip(st.columns(2), row, strict=False):
        with column:
            vocabulary = model.locator.model.vocabularies.get(feature)
            head_panel(feature, prediction, vocabulary, key=letter)

reasons(models, photo)
