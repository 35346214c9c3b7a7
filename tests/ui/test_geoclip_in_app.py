"""Tests of the pages with a small random GeoCLIP in the folder of downloaded models."""

import pytest
import streamlit as st

from geoclip_core.files import cache_folders
from geoclip_core.hub.catalogue import write_manifest
from tests.geoclip.geoclip_files import make_geoclip
from tests.ui.conftest import ended, photo_bytes, texts


@pytest.fixture(autouse=True, scope="module")
def downloaded(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOCLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = make_geoclip(cache_folders().models / "geoclip", places=2000)
        about = {"name": "geoclip", "kind": "geoclip", "source": "a test", "licence": "MIT"}
        write_manifest(folder, about)
        st.cache_resource.clear()
        yield
        st.cache_resource.clear()


def test_geoclip_can_be_chosen_and_locates_a_photo(open_app):
    app = open_app("geoclip")
    assert app.session_state["model"] == "geoclip"
    app.file_uploader[0].set_value([("a.jpg", photo_bytes(), "image/jpeg")]).run()
    assert not app.exception
    shown = texts(app)
    assert "1 · a.jpg" in shown.replace("\\", "")
    assert "not calibrated" in shown
    assert "Estimated by geoclip" in shown
    assert any("candidates" in box.label for box in app.expander)


@pytest.mark.slow
def test_geoclip_context_is_marked_as_from_the_map(open_app):
    app = open_app("geoclip", "pages/1_Context_heads.py")
    assert "from the map, not from the photo" in texts(app)
    assert "none of it was read in the photo" in texts(app)


@pytest.mark.slow
def test_geoclip_has_reasons_for_the_place_only(open_app):
    app = open_app("geoclip", "pages/1_Context_heads.py", **{"second model": "None"})
    (why,) = (button for button in app.button if button.label == "Why?")  # of the place alone
    why.click().run()
    app = ended(app)
    assert not app.exception
    assert "Hiding the outlined part costs" in texts(app)
