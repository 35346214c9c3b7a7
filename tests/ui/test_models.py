"""Tests of the expander that offers models for download."""

import pytest
from streamlit.testing.v1 import AppTest

from geoclip_core.errors import DownloadError
from geoclip_core.files import cache_folders
from geoclip_core.hub.catalogue import write_manifest
from geoclip_core.hub.download import download_job
from geoclip_core.jobs import StatusWriter
from tests.geoclip.geoclip_files import make_geoclip
from ui import models


def page():
    from ui.models import model_downloads

    model_downloads()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCLIP_CACHE", str(tmp_path))
    for name in ("GEOCLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def shown():
    app = AppTest.from_function(page, default_timeout=180).run()
    assert not app.exception
    return app


def text(app):
    elements = [*app.markdown, *app.caption, *app.warning]
    return "\n".join(str(element.value) for element in elements)


def test_offer_shows_size_and_licence_and_starts_the_download(monkeypatch):
    started = []
    monkeypatch.setattr(models, "start_download", started.append)
    app = shown()
    assert "**geoclip** · 1.75 GB · licence MIT" in text(app)
    app.button(key="download geoclip").click().run()
    assert started == ["geoclip"]


def test_no_download_button_while_offline(monkeypatch):
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    app = shown()
    assert "switched off" in text(app)
    assert not app.button


def test_running_download_shows_its_progress():
    with StatusWriter(download_job("geoclip").status_path, "geoclip", "bytes") as writer:
        writer.update(500_000_000, 10**9, "model.safetensors")
        app = shown()
    assert "geoclip** is being downloaded" in text(app)
    assert not app.button


def test_failed_download_shows_the_error_and_can_be_tried_again():
    with (
        pytest.raises(DownloadError),
        StatusWriter(download_job("geoclip").status_path, "geoclip", "bytes"),
    ):
        raise DownloadError("no network: it is off")
    app = shown()
    assert "no network" in text(app)
    assert app.button(key="download geoclip").label == "Try again"


def test_installed_model_is_not_offered():
    folder = make_geoclip(cache_folders().models / "geoclip")
    write_manifest(folder, {"name": "geoclip", "kind": "geoclip", "source": "x", "licence": "MIT"})
    app = shown()
    assert not app.button
    assert not app.expander
