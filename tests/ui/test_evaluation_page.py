"""Tests of the Evaluation page: choices, filters, panels, imports, and large tables."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.evaluation.baselines import with_baselines
from geoclip_core.evaluation.metrics import distance_metrics, with_places
from geoclip_core.evaluation.predictions import read_predictions, write_predictions
from geoclip_core.files import remember_opened
from geoclip_core.results import read_results
from tests.evaluation.synthetic_predictions import synthetic_predictions
from train.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = str(ROOT / "pages" / "2_Evaluation.py")
MINI = ROOT / "geoclip_core" / "checkpoints" / "mini" / "predictions.parquet"
ROWS = 119_008
TABS = (
    *("Errors", "Error map", "By place, climate, month", "Context heads", "Certainty"),
    *("Difference map", "Best and worst", "All rows"),
)


def write(folder, name, frame, **about):
    about = {"model": name, "dataset": "ten states", "split": "test", **about}
    write_predictions(frame, folder / "evaluations" / name / "predictions.parquet", about)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder, in which evaluations are looked for."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def frames():
    """A model with baselines, and a worse one without heads on the same photos."""
    frame = with_places(synthetic_predictions(400), Gazetteer.load())
    frame = with_baselines(frame, {"constant": np.tile([38.0, -105.0], (400, 1))})
    plain = frame[[c for c in frame if not c.endswith(("_top1", "_rank", "probability", "_truth"))]]
    return frame, plain.assign(error_km=plain["error_km"] * 1.5)


def open_page(tab="Errors", **session):
    app = AppTest.from_file(PAGE, default_timeout=180)
    app.session_state["evaluation tab"] = tab
    for key, value in session.items():
        app.session_state[key.replace("_", " ")] = value
    app.run()
    assert not app.exception, app.exception
    return app


def texts(app):
    elements = [*app.markdown, *app.caption, *app.error, *app.info, *app.warning, *app.title]
    elements += [*app.subheader, *app.code]
    html = [element.proto.body for element in app.get("html")]
    return "\n".join([*(str(element.value) for element in elements), *html]).replace("\\", "")


@pytest.mark.slow
def test_first_start_shows_the_bundled_model(place):
    app = open_page()
    shown = texts(app)
    numbers = read_results(MINI.with_name("metrics.json"))
    assert f"{numbers['geoscore']:,.0f}" in shown
    assert "350 photos" in shown
    assert "each photo was held out" in shown
    assert "Best constant guess" in shown
    assert "python -m train evaluate" in shown
    assert app.multiselect(key="filter months").disabled  # its photos have no dates


@pytest.mark.parametrize("tab", TABS)
def test_every_panel_of_the_bundled_model(place, tab):
    app = open_page(tab)
    assert len(app.get("plotly_chart")) + len(app.get("image")) + len(app.dataframe) > 0
    assert len(app.get("download_button")) > 1  # the headline's, and the panel's


@pytest.mark.parametrize("tab", TABS)
def test_every_panel_compares_two_models(place, frames, tab):
    write(place, "with", frames[0], use_context=True)
    write(place, "without", frames[1], use_context=False)
    app = open_page(tab)
    chosen = app.selectbox(key="evaluation model").value.model
    other = {"with": "without", "without": "with"}[chosen]
    app.multiselect(key="evaluation compared").set_value([other]).run()
    assert not app.exception
    shown = texts(app)
    assert other in shown
    assert "better" in shown
    assert "worse" in shown


def test_model_with_context_is_compared_with_one_without_by_default(place):
    app = open_page("Difference map")
    assert [source.model for source in app.multiselect(key="evaluation compared").value] == [
        "mini-plain"
    ]
    assert "With context minus without" in texts(app)


def test_panels_say_that_heads_or_a_second_model_are_missing(place, frames):
    write(place, "plain", frames[1], use_context=False)
    assert "without context heads" in texts(open_page("Context heads"))
    assert "Choose a second model" in texts(open_page("Difference map"))


@pytest.mark.slow
def test_filters_act_on_the_headline(place, frames):
    frame = frames[0]
    write(place, "with", frame)
    app = open_page()
    app.multiselect(key="filter states").set_value(["Texas_US", "Kansas_US"]).run()
    app.multiselect(key="filter months").set_value([6]).run()
    app.select_slider(key="filter error").set_value((25, 750)).run()
    kept = frame[
        frame["state_key"].isin(["Texas_US", "Kansas_US"])
        & (frame["month"] == 6)
        & frame["error_km"].between(25, 750)
    ]
    assert 0 < len(kept) < 400
    shown = texts(app)
    assert f"**{len(kept)}** of 400 photos" in shown
    numbers = distance_metrics(kept["error_km"].to_numpy())
    assert f"{numbers['geoscore']:,.0f}" in shown
    baseline = distance_metrics(kept["baseline_constant_km"].to_numpy())
    assert f"{baseline['geoscore']:,.0f}" in shown
    if len(kept) < 30:
        assert "the intervals are wide" in shown
    next(b for b in app.button if b.label == "Clear filters").click().run()
    assert "400 photos" in texts(app)
    assert "of 400 photos" not in texts(app)


def test_filters_that_keep_no_photo_give_a_message(place, frames):
    write(place, "with", frames[0])
    app = open_page()
    app.select_slider(key="filter error").set_value((0, 0)).run()
    assert not app.exception
    assert "No photo matches the filters" in texts(app)


def test_radius_filter_is_a_filter_on_confidence(place, frames):
    write(place, "with", frames[0])
    app = open_page()
    app.select_slider(key="filter radius").set_value((0, 200)).run()
    kept = (frames[0]["radius_50_km"] <= 200).sum()
    assert f"**{kept}** of 400 photos" in texts(app)


@pytest.mark.slow
def test_csv_of_another_system_is_compared(place, frames):
    frame = frames[0]
    write(place, "with", frame)
    app = open_page("Errors")
    theirs = (
        frame[["id", "latitude", "longitude"]].iloc[:300].assign(latitude=lambda f: f.latitude + 1)
    )
    content = theirs.to_csv(index=False).encode()
    app.file_uploader[0].set_value(("theirs.csv", content, "text/csv")).run()
    assert not app.exception
    shown = texts(app)
    assert "theirs answered 300" in shown
    assert "111" in shown  # their median error: a degree of latitude
    for tab in ("Error map", "By place, climate, month", "Certainty", "Difference map"):
        app.session_state["evaluation tab"] = tab
        assert not app.run().exception


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,x\n1,2\n", "no column 'latitude', 'longitude' in the header"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"id,latitude,longitude\nnobody,1,2\n", "none of the 1 ids"),
    ],
)
def test_unusable_csv_is_explained(place, frames, content, message):
    write(place, "with", frames[0])
    app = open_page()
    app.file_uploader[0].set_value(("theirs.csv", content, "text/csv")).run()
    assert not app.exception
    assert message in texts(app)


def test_damaged_predictions_are_named_and_the_rest_is_shown(place):
    damaged = place / "evaluations" / "damaged"
    damaged.mkdir(parents=True)
    (damaged / "predictions.parquet").write_bytes(b"PAR1 not really")
    app = open_page()
    assert "damaged" in texts(app)
    assert "350 photos" in texts(app)


def test_a_warning_of_the_evaluation_is_shown(place, frames):
    write(place, "with", frames[0], warning="12% of the guesses are exact")
    assert "12% of the guesses are exact." in texts(open_page())


@pytest.mark.slow
def test_text_from_files_stays_text(place, frames):
    hostile = "<script>alert(1)</script>![x](http://example.org)"
    frame = frames[0].head(60).copy()
    frame["id"] = frame["id"] + hostile
    frame["city_key"] = frame["city_key"] + hostile
    write(place, "hostile", frame, model=hostile, note=hostile)
    for tab in TABS:
        app = open_page(tab)
        for element in app.get("html"):
            assert "<script" not in element.proto.body
        for element in (*app.markdown, *app.caption, *app.subheader, *app.info):
            assert "![x](" not in element.value


def test_photos_are_shown_and_missing_ones_named(place, frames):
    from PIL import Image

    frame = frames[0].head(30)
    (place / "photos").mkdir()
    for name in frame["path"].head(3):
        (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (640, 360), "green").save(place / "photos" / name)
    write(place, "with", frame, root=str(place / "photos"))
    app = open_page("All rows", evaluation_order="By id")
    assert len(app.get("image")) == 1  # the map alone: nobody has opened that folder
    assert "no dataset that you have opened" in texts(app)
    assert "no dataset that you have opened" in texts(open_page("Best and worst"))
    remember_opened(place / "photos")
    app = open_page("All rows", evaluation_order="By id")
    assert not [e for e in app.info if "no photos" in e.value]
    assert len(app.get("image")) == 2  # the photo, and its map
    missing = open_page("All rows", evaluation_order="Largest error first")
    first = frame.sort_values("error_km").iloc[-1]
    if first["path"] not in frame["path"].head(3).tolist():
        assert "is no longer in the dataset's folder" in texts(missing)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Predictions for as many photos as OSV-Mini-129k trains on."""
    folder = tmp_path_factory.mktemp("large")
    frame = with_places(synthetic_predictions(ROWS, candidates=False), Gazetteer.load())
    centre = np.tile([38.0, -105.0], (ROWS, 1))
    write(folder, "large", with_baselines(frame, {"constant": centre}))
    return folder


@pytest.mark.slow
class TestLargeTable:
    @pytest.mark.parametrize("tab", TABS)
    def test_panels_answer_a_filter_and_send_little(self, folder, monkeypatch, tab):
        monkeypatch.chdir(folder)
        app = open_page(tab)
        app.multiselect(key="filter states").set_value(["Texas_US"]).run()
        assert not app.exception
        assert re.search(r"\*\*5\d,\d{3}\*\* of 119,008 photos", texts(app))
        for chart in app.get("plotly_chart"):
            assert len(chart.proto.spec) < 2_000_000
        sent = sum(len(frame.proto.arrow_data.data) for frame in app.dataframe)
        assert sent < 1_000_000


@pytest.mark.slow
def test_no_model_is_loaded_to_look_at_numbers():
    """The page imports neither torch nor transformers, so it opens fast and in little memory."""
    import subprocess
    import sys

    code = (
        "import sys; import ui.evaluation.panels, ui.evaluation.maps, "
        "ui.evaluation.photos, ui.evaluation.panels, ui.evaluation.sources; "
        "print([m for m in ('torch', 'transformers', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_download_holds_the_filtered_rows(place, frames):
    from ui.evaluation.sources import Filters, find_sources, rows

    write(place, "with", frames[0])
    sources, problems = find_sources()
    assert not problems
    source = next(s for s in sources if s.model == "with")
    kept = rows(source, source, Filters(states=("Texas_US",)))
    expected = frames[0][frames[0]["state_key"] == "Texas_US"]
    assert kept["id"].tolist() == expected["id"].tolist()
    assert isinstance(kept, pd.DataFrame)


def headline_of(app):
    """The HTML of the headline table."""
    blocks = [element.proto.body for element in app.get("html")]
    return next(block for block in blocks if "class='headline'" in block)


def test_mini_has_one_accuracy_everywhere(place):
    """The mean of the repeats, as in its card and in the README; the table has the first."""
    results = read_results(MINI.with_name("metrics.json"))
    first = distance_metrics(read_predictions(MINI)["error_km"].to_numpy())
    score, median = f"{results['geoscore']:,.0f}", f"{results['median_km']:,.0f}"
    assert score != f"{first['geoscore']:,.0f}"
    app = open_page()
    headline = headline_of(app)
    row = headline.split("</tr>")[2]
    assert "mini" in row
    assert f"<b>{score}</b>" in row
    assert f"<b>{median}</b>" in row
    assert f"<b>{100 * results['coverage']['50']:.1f}</b>" in row
    assert "mean of 3 repeats" in row
    assert "mean over the repeats" in texts(app)
    for text in (MINI.with_name("README.md"), ROOT / "README.md"):
        assert score in text.read_text(encoding="utf-8")
    command = place / "report.html"
    assert main(["report", "mini", "--output", str(command)]) == 0
    assert f"<b>{score}</b>" in command.read_text(encoding="utf-8")


def test_filters_measure_the_table_itself(place):
    frame = read_predictions(MINI)
    country = frame["country_key"].value_counts().index[0]
    part = frame.loc[frame["country_key"] == country, "error_km"].to_numpy()
    app = open_page()
    app.multiselect(key="filter countries").set_value([country]).run()
    headline = headline_of(app)
    assert f"<b>{distance_metrics(part)['geoscore']:,.0f}</b>" in headline
    assert "mean of 3 repeats" not in headline


@pytest.mark.parametrize(
    "damage",
    [
        {"cross_validation": []},
        {"cross_validation": {"geoscore_of_repeats": 3}},
        {"intervals": {"place_accuracy": [1]}, "place_accuracy": "x", "baselines": {}},
        {"n": None},
    ],
)
def test_a_strange_metrics_file_costs_no_page(place, damage):
    folder = place / "evaluations" / "copy"
    folder.mkdir(parents=True)
    shutil.copy(MINI, folder)
    results = json.loads(MINI.with_name("metrics.json").read_text()) | damage
    (folder / "metrics.json").write_text(json.dumps(results))
    open_page()


def test_the_report_of_the_page_is_that_of_the_command(place, frames):
    write(place, "a", frames[0])
    write(place, "b", frames[1])
    app = open_page(evaluation_dataset="ten states, test")
    others = app.multiselect(key="evaluation compared")
    app = others.set_value([]).run()
    [button] = [button for button in app.button if button.label == "Report"]
    app = button.click().run()
    assert not app.exception
    assert app.get("download_button")
    model = app.selectbox(key="evaluation model").value.model
    assert main(["report", f"evaluations/{model}", "--output", "report.html"]) == 0
    reports = app.session_state["report"][1], (place / "report.html").read_text(encoding="utf-8")
    page, command = (re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", r) for r in reports)
    assert page == command  # but for the random names of their figures


def test_a_compared_csv_is_in_the_report(place, frames):
    write(place, "a", frames[0])
    app = open_page(evaluation_dataset="ten states, test")
    guesses = frames[0][["id", "latitude", "longitude"]].iloc[:50].to_csv(index=False).encode()
    app = app.file_uploader(key="evaluation csv").set_value([("theirs.csv", guesses, "text/csv")])
    app = app.run().run()
    assert not app.exception
    [button] = [button for button in app.button if button.label == "Report"]
    app = button.click().run()
    assert not app.exception
    assert "theirs" in app.session_state["report"][1]


@pytest.mark.slow
def test_the_rehearsal_of_osv_mini_is_what_you_will_see(place):
    """The commands, and the time and result of the rehearsal whose table is in the docs."""
    shown = texts(open_page())
    assert "python -m train fit --recipe osv-mini" in shown
    measured = json.loads((ROOT / "docs" / "measured" / "rehearsal.json").read_text())
    assert measured["rows"] == ROWS
    assert "What you will see" in shown
    assert f"A rehearsal with {ROWS:,} drawn photos (as many as in OSV-Mini-129k)" in shown
    assert f"On its {measured['result']['photos']:,.0f} test photos" in shown
