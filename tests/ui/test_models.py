"""Tests of the expander that offers models for download."""

import json
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from geoclip_core.errors import DownloadError
from geoclip_core.files import cache_folders
from geoclip_core.hub.catalogue import write_manifest
from geoclip_core.hub.download import download_job
from geoclip_core.jobs import StatusWriter
from geoclip_core.model.domain import Domain
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


def checkpoint(folder, use_context, data=None, domain=None, backbone="efficientnet-lite2"):
    """Write what is said about the training of a checkpoint, in a run if there is a dataset."""
    (folder / "checkpoint").mkdir(parents=True)
    config = {"model": {"use_context": use_context}, "backbone": {"name": backbone}}
    (folder / "checkpoint" / "config.json").write_text(json.dumps(config))
    if domain is not None:
        (folder / "checkpoint" / "domain.json").write_text(domain.to_json())
    if data is not None:
        (folder / "config.yaml").write_text(f"command: fit\nfit:\n  data: {data}\n")
    return str(folder)


def test_the_sibling_without_context_has_seen_the_same_photos(tmp_path):
    cell = (1.25, 1.25, 10)
    seen = Domain(10, False, {"FR": 10}, 1, None, None, (cell,), (0.1,))
    other = Domain(11, False, {"FR": 11}, 1, None, None, ((1.25, 1.25, 11),))
    first = checkpoint(tmp_path / "a", True, "data", seen)
    measured_otherwise = replace(seen, held_out_scores=(0.3,))
    named = {
        "context": checkpoint(tmp_path / "b", True, "data", seen),
        "photos": checkpoint(tmp_path / "c", False, "data", other),
        "backbone": checkpoint(tmp_path / "d", False, "data", measured_otherwise, "clip"),
        "sibling": checkpoint(tmp_path / "e", False, "moved", measured_otherwise),
        "old": checkpoint(tmp_path / "f", False, "data"),
        "old elsewhere": checkpoint(tmp_path / "g", False, "elsewhere"),
    }
    broken = tmp_path / "h"
    broken.mkdir()
    (broken / "config.json").write_text("[1]")

    def found(*names):
        candidates = tuple(named[name] for name in names)
        sibling = models.sibling_without_context(first, (first, *candidates, str(broken)))
        return next((name for name in names if named[name] == sibling), None)

    assert found(*named) == "sibling"
    assert found("context", "photos", "backbone", "old elsewhere") == "backbone"
    assert found("context", "photos", "old elsewhere", "old") == "old"
    assert found("context", "photos", "old elsewhere") is None
    assert models.sibling_without_context(named["sibling"], (first, named["old"])) is None
    assert models.sibling_without_context("mini", ("mini", "mini-plain")) == "mini-plain"
