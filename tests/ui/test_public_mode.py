"""Tests of public mode, and of folders that may be typed if other computers reach the app."""

import pytest
from streamlit.testing.v1 import AppTest

from geoclip_core.demo.dataset import write_demo
from geoclip_core.jobs import JobError
from geoclip_core.training.runs import Run, list_runs
from tests.ui.conftest import opened, texts
from ui import page
from ui.dataset import make
from ui.training import runs

PAGES = tuple(link.file for link in page.PAGES.values())
FORBIDDEN = ("Start", "Stop", "Resume", "Delete", "Import", "Fetch", "Draw", "Download ", "Check")
FORBIDDEN += ("Train again", "Train geolocation", "Take from", "End now", "Dismiss", "Try again")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a finished, a stopped and a pretraining run and a dataset that are listed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOCLIP_CACHE", str(tmp_path / "cache"))
    for name, task, state in (
        ("one", "fit", "finished"),
        ("two", "fit", "stopped"),
        ("three", "pretrain", "finished"),
    ):
        run = Run.create(tmp_path / "runs", name, {"epochs": 3}, task)
        run.update(state=state)
        run.checkpoint.mkdir()
    write_demo(tmp_path / "datasets" / "listed", 40, metadata_only=True)
    write_demo(tmp_path / "elsewhere" / "private", 40, metadata_only=True)
    return tmp_path


@pytest.fixture
def public(place, monkeypatch):
    monkeypatch.setenv(page.PUBLIC_VARIABLE, "1")
    return place


@pytest.fixture
def beyond(place, monkeypatch):
    monkeypatch.setattr(page, "reached_beyond_loopback", lambda: True)
    return place


def said(app):
    return texts(app).replace("\\", "")


@pytest.mark.parametrize("file", PAGES)
def test_public_pages_take_no_paths_and_change_nothing(public, file):
    for run in ("one", "two", "three"):
        (folder,) = (item.folder.name for item in list_runs(public / "runs") if run in item.name)
        for view in ("This run", "All runs", "New training"):
            add = "Add a dataset" if view == "New training" else "Check"
            app = opened(file, run=folder, train_view=view, dataset_view=add)
            assert {box.label for box in app.text_input} <= {"Check a claim"}
            boxes = [*app.selectbox, *app.multiselect]
            assert not any(box.proto.accept_new_options for box in boxes)
            labels = [button.label for button in app.button]
            assert not [label for label in labels if label.startswith(FORBIDDEN)]
            assert "CSV" not in "".join(item.label for item in app.get("file_uploader"))
            assert any("Public" in caption.value for caption in app.caption)
            if "Train" not in file:
                break
        if "Train" not in file:
            break


def test_public_pages_show_what_is_listed(public):
    app = opened("pages/4_Dataset.py")
    assert app.selectbox(key="dataset").options == ["listed"]
    assert "Even odds" in said(opened("pages/1_Context_heads.py"))
    assert len(opened("pages/3_Train.py").selectbox(key="run").options) == 3


def test_public_pages_ignore_paths_that_a_browser_sends(public):
    private = public / "elsewhere"
    app = opened("pages/4_Dataset.py", dataset=str(private / "private"))
    assert app.selectbox(key="dataset").value != str(private / "private")
    hidden = Run.create(private / "runs", "hidden", {}, "fit")
    app = opened("pages/3_Train.py", runs_folder=str(private / "runs"))
    assert "hidden" not in "".join(app.selectbox(key="run").options)
    for name in (str(hidden.folder), "stranger/model"):
        app = opened("app.py", model=name)
        assert app.selectbox(key="model").value == "mini"


def test_public_runs_and_jobs_cannot_be_started_stopped_or_deleted(public):
    root = public / "runs"
    run = list_runs(root)[0]
    for act in (
        lambda: runs.start(root, "fit", {}, "new"),
        lambda: runs.resume(run),
        lambda: runs.stop(run),
        lambda: runs.kill(run),
        lambda: runs.delete(root, run),
        lambda: make.start(public / "datasets", "demo-data", [], "", public / "datasets" / "new"),
    ):
        with pytest.raises(JobError, match="public"):
            act()
    assert len(list_runs(root)) == 3


@pytest.mark.parametrize("value", ["", "0", "false", "No"])
def test_public_mode_is_off_unless_set(place, monkeypatch, value):
    monkeypatch.setenv(page.PUBLIC_VARIABLE, value)
    assert not page.is_public()
    assert page.may_open("/")
    assert opened("pages/3_Train.py").text_input


def test_folders_stay_below_the_roots_if_other_computers_reach_the_app(beyond, monkeypatch):
    private = beyond / "elsewhere"
    (beyond / "datasets" / "link").symlink_to(private, target_is_directory=True)
    outside = [private, "/", "~", "datasets/../elsewhere", "datasets/link/private", "~no1/x", "\0"]
    assert not [path for path in outside if page.may_open(path)]
    assert all(map(page.may_open, ["runs", "datasets/new", beyond / "runs" / "one"]))
    monkeypatch.setenv(page.ROOTS_VARIABLE, str(private))
    assert page.may_open(private / "private")


def test_typed_folders_outside_the_roots_are_refused(beyond):
    private = beyond / "elsewhere"
    told = "outside the folders that this app may open"
    hidden = Run.create(private / "runs", "hidden", {}, "fit")
    app = opened("pages/4_Dataset.py", dataset=str(private / "private"))
    assert told in said(app)
    app = opened("pages/4_Dataset.py", dataset=str(private / "nothing here"))
    assert told in said(app)
    app = opened("pages/3_Train.py", runs_folder=str(private / "runs"))
    assert told in said(app)
    assert "hidden" not in "".join(app.selectbox(key="run").options)
    assert told in said(opened("app.py", model=str(hidden.folder)))
    for options in (
        {"backbone": str(private)},
        {"data": "/"},
        {"cache_dir": "/new"},
        {"tower": {"text": str(private)}},
    ):
        with pytest.raises(JobError, match=told):
            runs.start(beyond / "runs", "fit", options, "new")


def test_imports_from_outside_the_roots_are_refused(beyond, monkeypatch):
    # A browser sends what is typed as it is, AppTest what the box would show for it.
    monkeypatch.setattr("ui.page.printable", str)
    told, private = "outside the folders that this app may open", str(beyond / "elsewhere")
    app = opened("pages/4_Dataset.py", dataset_view="Add a dataset")
    app.text_input(key="download archive").set_value(private)
    [button] = [button for button in app.button if button.label == "Fetch"]
    app = button.click().run()
    assert told in said(app)
    for way in ("a folder is open", "a folder is typed"):
        session = {"import folder at": private} if way == "a folder is open" else {}
        app = opened("pages/4_Dataset.py", dataset_view="Add a dataset", **session)
        app = app.segmented_control(key="import way").set_value("Choose a folder").run()
        if not session:
            box = app.selectbox(key="import folder 0")
            box.options.append(private)
            app = box.set_value(private).run()
        [button] = [button for button in app.button if button.label == "Import"]
        app = button.click().run()
        assert told in said(app)
    assert not (beyond / "datasets" / ".jobs").exists()


@pytest.mark.parametrize("free", [False, True])
def test_a_box_does_not_take_what_it_does_not_offer(monkeypatch, free):
    def boxed():
        import streamlit as st

        from ui.page import choose, with_typed

        options = with_typed(["a", "b"], "run")
        st.write(f"chosen {choose('Run', options, 'run', accept_new_options=True)}")

    monkeypatch.setenv(page.PUBLIC_VARIABLE, "" if free else "1")
    app = AppTest.from_function(boxed).run()
    app.selectbox[0].options.append("other")
    app.selectbox[0].set_value("other").run()
    assert app.markdown[0].value == ("chosen other" if free else "chosen a")
