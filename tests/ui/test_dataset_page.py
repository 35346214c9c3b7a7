"""Tests of the Dataset page: without a dataset, with a broken and a good one, and making one."""

import json
import time
import zipfile
from pathlib import Path

import h3
import pytest
from streamlit.testing.v1 import AppTest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.demo.dataset import write_demo
from tests.data import layout
from tests.data.geotagged import write_photo
from tests.ui.conftest import ROOT, texts
from ui.page import DATASETS_VARIABLE

PAGE = "pages/4_Dataset.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "demo", 160)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(DATASETS_VARIABLE, str(tmp_path / "datasets"))
    return tmp_path / "datasets"


@pytest.fixture
def open_page(folder):
    def opened(dataset=None, **session):
        app = AppTest.from_file(str(ROOT / PAGE), default_timeout=180)
        if dataset is not None:
            app.session_state["dataset"] = str(dataset)
        for key, value in session.items():
            app.session_state[key] = value
        app.run()
        assert not app.exception, app.exception
        return app

    return opened


def shown(app):
    """All the text of the page without Markdown's backslashes."""
    parts = [texts(app), *(str(box.value) for box in (*app.warning, *app.success))]
    parts += [f"{metric.label} {metric.value}" for metric in app.metric]
    return "\n".join(parts).replace("\\", "")


def press(app, label):
    """Press the last button with this label."""
    found = [button for button in app.button if button.label == label]
    assert found, [button.label for button in app.button]
    app = found[-1].click().run()
    assert not app.exception, app.exception
    return app


def until(app, text, seconds=90):
    """Rerun the page until it shows the text."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        app.run()
        if text in shown(app):
            return app
        time.sleep(0.3)
    pytest.fail(f"{text!r} was not shown; the page shows:\n{shown(app)}")


def test_without_a_dataset_it_offers_to_draw_one(open_page):
    app = open_page()
    assert "There is no dataset yet" in shown(app)
    assert "Draw a demo set of 2,000" in [button.label for button in app.button]
    assert "Synthetic" in shown(app)


def test_a_demo_set_is_shown_as_synthetic(open_page, demo):
    app = open_page(demo)
    assert "**Synthetic demo set.**" in shown(app)
    assert "Photos 160" in shown(app)
    assert "**160 photos**, click a hexagon to open it" in shown(app)
    dataset = read_dataset(demo)
    for split in ("train", "val", "test"):
        number = (dataset.table["split"] == split).sum()
        assert f"{split.capitalize()} {number}" in shown(app)
    assert "**Test**: 0 of " in shown(app)
    assert len(app.get("plotly_chart")) == 4
    assert len(app.get("image")) == 6


def test_photos_are_filtered_by_split_and_class(open_page, demo):
    app = open_page(demo)
    app.segmented_control(key="dataset split").set_value("test").run()
    tests = (read_dataset(demo).table["split"] == "test").sum()
    assert f"**{tests} photos**" in shown(app)
    app.segmented_control(key="dataset split").set_value("All").run()
    app.selectbox(key="dataset feature").select("state").run()
    box = app.selectbox(key="dataset class state")
    state = read_dataset(demo).table["state_key"].value_counts()
    assert box.value == state.index[0]
    assert f"**{state.iloc[0]:,} photos**" in shown(app)


def test_opened_hexagon_shows_its_photos_and_back_returns(open_page, demo):
    dataset = read_dataset(demo)
    cell = h3.latlng_to_cell(*dataset.coordinates[0], 3)
    trail_key = f"kept:dataset trail {dataset.root} Chosen(split=None, feature=None, key=None)"
    chosen = "Chosen(split=None, feature=None, key=None)"
    picked = f"dataset picked {dataset.root} {chosen} {[cell]}"
    app = open_page(demo, **{trail_key: [cell], picked: 0})
    facts = dataset.table.iloc[0]
    assert "photos** around" in shown(app)
    assert facts["id"] in shown(app)
    assert "Caption for pretraining: “A street photo" in shown(app)
    assert "**160 photos**, click a hexagon to open it" in shown(press(app, "Back"))


def test_tables_without_photos_say_so_once(open_page, tmp_path):
    app = open_page(write_demo(tmp_path / "tables", 60, metadata_only=True))
    assert shown(app).count("not in the folder") == 1


def test_broken_photos_are_named_and_the_rest_shown(open_page, tmp_path):
    root = layout.make(tmp_path / "osv")
    for path in root.rglob("*.jpg"):
        if path.stem.endswith("1"):
            path.write_bytes(b"\xff\xd8\xff\xe0")
    app = open_page(root, **{"dataset split": "train"})
    assert "1000000000000001.jpg cannot be read" in shown(app)
    assert len(app.get("image")) == 4


@pytest.mark.slow
def test_a_broken_table_gives_the_reason_and_names_the_check(open_page, tmp_path):
    root = layout.make(tmp_path / "osv")
    table = (root / "train_mini.csv").read_text().replace("43.6135", "<b>north</b>")
    (root / "train_mini.csv").write_text(table)
    app = open_page(root)
    assert "column 'latitude', row 2: '<b>north</b>' is not a number" in shown(app)
    assert "**Check** lists all faults" in shown(app)
    app = open_page(root, **{"dataset view": "Check"})
    app = until(press(app, "Check this dataset"), "must be fixed.**")
    assert "1 kind of error" in shown(app)
    titles = " ".join(expander.label for expander in app.expander).replace("\\", "")
    assert "Latitude is not a number" in titles
    assert any("--write-clean" in code.value for code in app.code)


@pytest.mark.slow
def test_a_good_dataset_passes_its_check(open_page, demo):
    app = open_page(demo, **{"dataset view": "Check"})
    app = until(press(app, "Check this dataset"), "No faults found.")
    assert "160 rows and 160 photo files" in shown(app)
    assert "Check again" in [button.label for button in app.button]


def test_a_check_that_cannot_start_gives_the_reason(open_page, demo, monkeypatch):
    def refuse(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("ui.dataset.make.start", refuse)
    app = open_page(demo, **{"dataset view": "Check"})
    [button] = [button for button in app.button if button.label.startswith("Check ")]
    assert "The job cannot be started: the disk is full" in shown(button.click().run())
    assert not app.exception


def test_a_damaged_report_is_ignored(open_page, tmp_path):
    root = layout.make(tmp_path / "osv")
    for text in ("{", "[]", '{"findings": 3}', json.dumps({"findings": [1, {"a": 2}]})):
        (root / "doctor.json").write_text(text)
        open_page(root, **{"dataset view": "Check"})


@pytest.mark.slow
def test_drawing_a_demo_set(open_page, folder):
    app = open_page()
    app.text_input(key="demo name").set_value("../my demo")
    app.number_input(key="demo rows").set_value(40)
    app.toggle(key="demo drawn").set_value(False)
    app = until(press(app, "Draw"), "40 synthetic rows without photos")
    assert [path.name for path in folder.iterdir() if path.name[0] != "."] == ["my-demo"]
    app = press(app, "Open")
    assert app.session_state["dataset"].endswith("my-demo")
    assert "**Synthetic demo set.**" in shown(app)
    assert "40 synthetic rows" not in shown(app)


def pictures(tmp_path):
    """Four photos with a position and one without, in a folder."""
    for i in range(4):
        at = (32.4 + i, -99.7)
        write_photo(tmp_path / "pictures" / f"{i}.jpg", at, "2021:07:31 12:00:00", seed=i)
    write_photo(tmp_path / "pictures" / "nowhere.jpg", seed=9)
    return tmp_path / "pictures"


def drop(app, *files):
    """Drop files, each as (name, bytes), on the import."""
    return app.file_uploader(key="import files 0").set_value(list(files)).run()


@pytest.mark.slow
def test_importing_a_folder(open_page, folder, tmp_path):
    app = open_page(
        **{"import way": "Choose a folder", "import folder at": str(pictures(tmp_path))}
    )
    app = until(press(app, "Import"), "4 photos added")
    app = press(app, "Open")
    assert "Photos 4" in shown(app)
    assert "Synthetic" not in shown(app)
    assert "1 files were not imported" in [expander.label for expander in app.expander]
    assert (folder / "my-photos" / "train_mini.csv").is_file()


@pytest.mark.slow
def test_importing_dropped_photos_and_zips(open_page, folder, tmp_path):
    source = pictures(tmp_path)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(source / "0.jpg", "2021/0.jpg")
        archive.write(source / "1.jpg", "2022/0.jpg")
        archive.writestr("2022/broken.jpg", b"no photo")
    app = drop(
        open_page(),
        ("export.zip", (tmp_path / "export.zip").read_bytes(), "application/zip"),
        ("photo.jpg", (source / "2.jpg").read_bytes(), "image/jpeg"),
        ("../../photo.jpg", (source / "3.jpg").read_bytes(), "image/jpeg"),
        ("nowhere.jpg", (source / "nowhere.jpg").read_bytes(), "image/jpeg"),
    )
    app = until(press(app, "Import"), "4 photos added, 0 already there, 0 copies, 2 not imported")
    assert not list(folder.rglob("dropped"))  # nothing is kept but what was imported
    dataset = read_dataset(folder / "my-photos")
    assert len(dataset) == 4
    assert all((dataset.root / path).is_file() for path in dataset.table["path"])
    # another drop adds to the dataset
    write_photo(tmp_path / "new.jpg", (40.0, -100.0), seed=77)
    app = press(app, "Dismiss")
    app = app.segmented_control(key="dataset view").set_value("Add a dataset").run()
    field = app.file_uploader(key="import files 1")
    assert not field.value  # what was dropped before is gone
    field.set_value([("new.jpg", (tmp_path / "new.jpg").read_bytes(), "image/jpeg")]).run()
    until(press(app, "Import"), "1 photos added")
    assert len(read_dataset(folder / "my-photos")) == 5


def test_what_was_dropped_and_cannot_be_imported_is_said(open_page, folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.jpg", b"x")
    evil = (tmp_path / "evil.zip").read_bytes()
    for files, told in (
        ([], "Drop photos or a ZIP first."),
        ([("a.zip", b"no zip", "application/zip")], "a.zip is no ZIP, or is damaged"),
        ([("evil.zip", evil, "application/zip")], "evil.zip names a file outside itself"),
        ([("a.json", b"{}", "application/json")], "There are no photos among these files."),
        ([(".jpg", b"x", "image/jpeg")], "There are no photos among these files."),
    ):
        app = open_page()
        app = press(drop(app, *files) if files else app, "Import")
        assert told in shown(app)
        assert not list(Path(folder).glob(".jobs/*"))
    assert not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize(
    ("key", "value", "button", "message"),
    [
        ("demo name", "../..", "Draw", "Give the dataset a name"),
        ("download archive", "/no/such.zip", "Fetch", "There is no file or folder"),
        ("download archive", "~nobody-here/x.zip", "Fetch", "There is no file or folder"),
    ],
)
def test_invalid_inputs_are_refused(open_page, folder, key, value, button, message):
    app = open_page()
    app.text_input(key=key).set_value(value)
    assert message in shown(press(app, button))
    assert not list(Path(folder).glob(".jobs/*"))


@pytest.mark.parametrize("typed", ["/no/such/folder", "~nobody-here/photos", "no-such"])
def test_a_folder_that_does_not_exist_is_said(open_page, typed):
    app = open_page(typed)
    assert f"There is no folder {typed}." in shown(app)
    assert "There is no dataset yet" not in shown(app)
    assert "Import" in [button.label for button in app.button]


def test_hostile_names_stay_text(open_page, tmp_path):
    rows = layout.frame(layout.TRAIN[:2])
    rows["city"] = ["<script>alert(1)</script>", "**bold** [x](javascript:1)"]
    rows["unique_city"] = rows["city"] + "_US"
    layout.write(tmp_path / "osv", "train", rows)
    app = open_page(tmp_path / "osv")
    captions = [caption.value for caption in app.caption]
    assert any("\\<script\\>" in text for text in captions)
    assert any("\\*\\*bold\\*\\* \\[x\\]" in text for text in captions)
    chart = app.get("plotly_chart")[0].proto.spec
    assert "<script>" not in chart


@pytest.mark.slow
def test_charts_of_large_tables_are_small(open_page, large_tables):
    app = open_page(large_tables)
    assert "**119,008 photos**" in shown(app)
    app.segmented_control(key="dataset split").set_value("val").run()
    figures = app.get("plotly_chart")
    assert all(len(figure.proto.spec) < 600_000 for figure in figures)
