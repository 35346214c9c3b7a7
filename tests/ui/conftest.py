"""Fixtures: two small models with known answers, photos, and pages opened with a model."""

import functools
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import GPS, Base
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from geoclip_core.data.vocabulary import Vocabulary, climate_vocabulary
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.checkpoint import save_checkpoint
from geoclip_core.model.geolocation import GeolocationModel, ModelConfig

ROOT = Path(__file__).resolve().parents[2]
ABILENE, ABIDJAN, SUVA = (32.44874, -99.73314), (5.30966, -4.01266), (-18.14161, 178.44149)
COUNTRIES = Vocabulary("country", ("CI", "FJ", "US"), ("CI", "FJ", "US"))


@pytest.fixture(scope="session", autouse=True)
def packages_read_once():
    """Every AppTest looks for components in the metadata of all installed packages: a second."""
    with pytest.MonkeyPatch.context() as patch:
        name = "scan_component_manifests"
        patch.setattr(manifest_scanner, name, functools.cache(getattr(manifest_scanner, name)))
        yield


def make_model(name, best, climate=None, country=None, metrics=None):
    """A checkpoint that always answers ``best``; without ``climate`` it has no context heads."""
    vocabularies = {"climate": climate_vocabulary(), "country": COUNTRIES} if climate else {}
    places = (ABILENE, ABIDJAN, SUVA)
    backbone = build_backbone("efficientnet-lite2")
    config = ModelConfig(
        features=tuple(vocabularies),
        use_context=bool(vocabularies),
        coordinate_head="geocells",
        head_options={"cells": len(places), "offset_rank": 0},
    )
    calibration = Calibration(1.0, 200.0, {"50": 1.0, "90": 1.0}, 100, "a test")
    model = GeolocationModel(
        config, backbone.config, backbone.block_widths, vocabularies, calibration, name
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.coordinate_head.centres.copy_(torch.tensor(places))
        model.coordinate_head.radii_km.fill_(50.0)
        model.coordinate_head.classifier.bias[places.index(best)] = 3.0
        for feature, key in (("climate", climate), ("country", country)):
            if vocabularies:
                bias = model.context_heads.layers[feature].bias
                bias[vocabularies[feature].keys.index(key)] = 4.0
    model.attach_backbone(backbone)
    return model, metrics or {}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Name → checkpoint folder.

    "texas" says Abilene, climate BWh (the map: Cfa) and the US (so does the map); "fiji" has no
    context heads and no metrics.
    """
    folder = tmp_path_factory.mktemp("models")
    metrics = {"n": 350, "median_km": 4150.0, "accuracy_at_km": {"750": 0.2}}
    made = {
        "texas": make_model("texas", ABILENE, "BWh", "US", metrics),
        "fiji": make_model("fiji", SUVA),
    }
    return {
        name: str(save_checkpoint(folder / name, model, numbers))
        for name, (model, numbers) in made.items()
    }


def photo_bytes(seed=0, position=None, size=(160, 120)):
    """A JPEG of noise, with a position in its EXIF if one is given."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    if position is not None:
        latitude, longitude = position
        exif[Base.GPSInfo] = {
            GPS.GPSLatitudeRef: "N" if latitude >= 0 else "S",
            GPS.GPSLatitude: (abs(latitude), 0.0, 0.0),
            GPS.GPSLongitudeRef: "E" if longitude >= 0 else "W",
            GPS.GPSLongitude: (abs(longitude), 0.0, 0.0),
        }
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


@pytest.fixture
def open_app(models):
    """Open a page with a model chosen: ``open_app("texas", "app.py")``."""

    def opened(model="texas", page="app.py", **session):
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=180)
        app.session_state["model"] = models.get(model, model)
        for key, value in session.items():
            app.session_state[key] = value
        app.run()
        if page != "app.py":
            app.switch_page(page).run()
        assert not app.exception, app.exception
        return app

    return opened


def texts(app):
    """All the text of a page."""
    shown = [*app.markdown, *app.caption, *app.error, *app.code, *app.info, *app.title]
    return "\n".join(str(element.value) for element in shown)


def ended(app):
    """Wait for the searches of reasons, and return the page then."""
    for thread in threading.enumerate():
        if thread.name == "why":
            thread.join()
    return app.run()


def opened(file, **session):
    """Run a page with values of its session; underscores in names stand for spaces."""
    app = AppTest.from_file(str(ROOT / file), default_timeout=180)
    for key, value in session.items():
        app.session_state[key.replace("_", " ")] = value
    app.run()
    assert not app.exception, app.exception
    return app
