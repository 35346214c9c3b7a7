"""No name in a file of a stranger reaches Markdown as an image or a link."""

import json
import re

import pytest
from streamlit.testing.v1 import AppTest

from geoclip_core.training.runs import Run
from tests.ui.conftest import ABILENE, ROOT, make_model, photo_bytes
from ui.models import accuracy_sentence
from ui.page import RUNS_VARIABLE
from ui.photos import PhotoTray
from ui.theme import markdown_text

HOSTILE = "![x](http:127.0.0.1:9)"
"""As the name of a file; a browser reads the address as one of this computer."""

SENTENCES = ("body", "label", "help", "text", "value", "caption", "delta")


def markdown_of(app):
    """Every text of a page that Streamlit may render as Markdown."""
    for kind in ("markdown", "caption", "error", "warning", "info", "success", "toast", "metric"):
        for element in app.get(kind):
            fields = element.proto.DESCRIPTOR.fields_by_name
            for name in SENTENCES:
                if name in fields and isinstance(text := getattr(element.proto, name), str):
                    yield text
    for element in (*app.get("progress"), *app.get("expandable"), *app.get("button")):
        for name in ("text", "label", "help"):
            if isinstance(text := getattr(element.proto, name, None), str):
                yield text


def check(app):
    assert not app.exception, app.exception
    found = list(markdown_of(app))
    assert not [text for text in found if re.search(r"(?<!\\)\]\(", text) and "127" in text]
    return "\n".join(found)


@pytest.mark.parametrize("state", ["running", "failed", "finished", "queued"])
def test_train_page_escapes_the_texts_of_a_run(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path / "runs"))
    run = Run.create(tmp_path / "runs", HOSTILE.replace("/", ""), {"data": f"/x/{HOSTILE}"}, "fit")
    for step in range(3):
        run.log_metrics({"step": step, "time": float(step), f"val/{HOSTILE}": 1.0})
        run.log_metrics({"step": step, "time": float(step), "train/loss": 1.0})
    head = {HOSTILE: {"top1": 0.5, "majority": 0.2}}
    metrics = {"n": 3, "median_km": 5.0, "about": {"split": HOSTILE}, "context": head}
    (run.folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    run.update(state=state, phase=HOSTILE, error=HOSTILE, total_steps=9)
    for view in ("This run", "All runs", "New training"):
        app = AppTest.from_file(str(ROOT / "pages" / "3_Train.py"), default_timeout=180)
        app.session_state["train view"] = view
        check(app.run())


def test_map_page_escapes_the_names_of_photos_and_models(tmp_path):
    from geoclip_core.model.checkpoint import save_checkpoint

    published = {"source": HOSTILE, "test": HOSTILE, "accuracy_at_km": {"25": 0.1, "750": 0.5}}
    model, _ = make_model(HOSTILE, ABILENE, "BWh", "US")
    folder = save_checkpoint(tmp_path / HOSTILE, model, {"published": published})
    tray = PhotoTray()
    tray.add(f"{HOSTILE}.jpg", photo_bytes(1))
    tray.add(f"{HOSTILE}2.jpg", b"no photo")
    for page in ("app.py", "pages/1_Context_heads.py"):
        app = AppTest.from_file(str(ROOT / page), default_timeout=180)
        app.session_state["model"] = str(folder)
        app.session_state["kept:photo tray"] = tray
        assert markdown_text(HOSTILE) in check(app.run())


@pytest.mark.parametrize("metrics", [{}, {"median_km": 5.0, "n": 7}])
def test_the_accuracy_of_a_model_escapes_its_name(metrics):
    class Locator:
        name = HOSTILE

    Locator.metrics = metrics
    text = accuracy_sentence(Locator)
    assert markdown_text(HOSTILE) in text
    assert HOSTILE not in text
