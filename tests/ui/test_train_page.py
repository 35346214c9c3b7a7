"""Tests of the Train page: the form, starting and ending runs, their results and comparison."""

import contextlib
import time

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from geoclip_core.demo.dataset import write_demo
from geoclip_core.jobs import CONSOLE, JobError, this_process
from geoclip_core.training.runs import Run, list_runs
from tests.ui import slow_training
from tests.ui.conftest import ROOT, texts
from train.recipes import recipe_options
from ui.page import RUNS_VARIABLE
from ui.training import runs
from ui.training.form import FIXED, OPTIONS, flat, options_of, unused

PAGE = "pages/3_Train.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("data") / "demo", 60, metadata_only=True)


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    monkeypatch.setenv(RUNS_VARIABLE, str(folder))
    monkeypatch.chdir(tmp_path)  # so that the developer's datasets are not found
    monkeypatch.setattr(runs, "TRAIN", slow_training.__name__)
    yield folder
    for run in list_runs(folder):
        with contextlib.suppress(JobError):
            runs.kill(run)


@pytest.fixture
def open_train(root, demo):
    def opened(**session):
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=180)
        app.session_state["model"] = "there is no such model"  # the map page loads none
        app.session_state["dataset"] = str(demo)
        for key, value in session.items():
            app.session_state[key] = value
        app.switch_page(PAGE).run()
        assert not app.exception, app.exception
        return app

    return opened


def made(root, name="demo", state="finished", metrics=True, **changes):
    data = root.parent / "photos"
    data.mkdir(exist_ok=True)
    (data / "train_mini.csv").touch()
    run = Run.create(root, name, {"data": str(data), "epochs": 3, "recipe": "demo"}, "fit")
    if metrics:
        for step in range(1, 6):
            run.log_metrics({"step": step, "time": 100.0 + step, "train/loss": 5.0 / step})
            values = {"val/median_km": 900.0 / step, "val/climate_top1": step / 10}
            run.log_metrics({"step": step, "time": 100.5 + step, **values})
        run.update(best={"median_km": 180.0, "climate_top1": 0.5})
    run.update(state=state, **changes)
    return run


def button(app, label):
    found = [item for item in app.button if item.label == label]
    assert found, f"no button {label!r} among {[item.label for item in app.button]}"
    return found[0]


def labels(app):
    return [item.label for item in app.button]


def field(app, label):
    every = [*app.number_input, *app.text_input, *app.selectbox, *app.toggle, *app.multiselect]
    (found,) = (item for item in every if item.label.partition(" :")[0] == label)
    return found


def widget(app, name):
    every = [*app.number_input, *app.text_input, *app.selectbox, *app.toggle, *app.multiselect]
    (found,) = (item for item in every if item.key.endswith(f":{name}"))
    return found


def badges(app):
    return " ".join(item.value for item in app.markdown if "-badge[" in item.value)


def test_first_start_offers_a_form_that_can_be_started(open_train):
    app = open_train()
    assert field(app, "Recipe").value == "demo"
    assert not button(app, "Start training").disabled
    assert field(app, "Epochs").value > 0


def test_without_a_dataset_the_page_leads_to_the_dataset_page(open_train):
    app = open_train(dataset="")
    assert "There is no dataset yet" in " ".join(w.value for w in app.warning)
    assert button(app, "Start training").disabled
    assert "Go to the Dataset page" in labels(app)


@pytest.mark.parametrize("task", ["fit", "pretrain"])
def test_every_option_has_a_field_and_its_help(open_train, task):
    app = open_train(**{"train task": task})
    cls = OPTIONS[task]
    left_out = unused(flat(recipe_options(cls, "demo")))
    for option in options_of(cls):
        if option.name not in {*FIXED, *left_out}:
            assert option.help
            assert option.help[:20] in widget(app, option.name).help.replace("\\", "")


def test_an_invalid_option_is_shown_at_its_field_and_disables_the_start(open_train):
    app = open_train()
    field(app, "Epochs").set_value(0).run()
    assert ":red[Epochs must be at least 1, not 0.]" in texts(app).replace("\\", "")
    assert button(app, "Start training").disabled
    field(app, "Depths").set_value("deep").run()
    assert "'deep'" in texts(app)
    field(app, "Views").set_value("wide").run()
    assert "'wide' is not of the form HEIGHTxWIDTH" in texts(app).replace("\\", "")
    field(app, "Epochs").set_value(3).run()
    assert "Epochs must be" not in texts(app)
    assert button(app, "Start training").disabled


def test_changes_from_the_recipe_are_shown_and_can_be_reset(open_train):
    app = open_train()
    before = field(app, "Epochs").value
    field(app, "Epochs").set_value(before + 1).run()
    assert f"recipe\\: {before}" in field(app, "Epochs").label
    assert f"epochs {before + 1} (was {before})" in texts(app).replace("\\", "")
    button(app, "Back to the recipe").click().run()
    assert field(app, "Epochs").value == before
    assert "Changed from the recipe" not in texts(app)


def test_options_without_effect_are_left_out(open_train):
    app = open_train()
    names = [item.label for item in app.number_input]
    assert "Cells" in names
    field(app, "Coordinate head").set_value("bank").run()
    names = [item.label for item in app.number_input]
    assert "Cells" not in names
    assert "Folds" in names
    assert not button(app, "Start training").disabled


def wait_for(app, run, *states):
    limit = time.monotonic() + 120
    while run.status.state not in states:
        assert time.monotonic() < limit, (
            run.status,
            run.console_tail(),
        )
        time.sleep(0.05)
    return app.run()


@pytest.mark.slow
def test_start_watch_stop_resume(open_train, root):
    app = open_train()
    field(app, "Name of the run").set_value("../../Étude 1").run()
    button(app, "Start training").click().run()
    (run,) = list_runs(root)
    assert run.name.endswith("-Etude-1")
    assert run.title == "../../Étude 1"
    assert run.config["recipe"] == "demo"
    wait_for(app, run, "running")
    assert "running" in badges(app)
    button(app, "Stop").click().run()
    wait_for(app, run, "stopped")
    assert "stopped" in badges(app)
    assert "Resume" in labels(app)
    button(app, "Resume").click().run()
    wait_for(app, run, "running")
    # Another browser, or the app after a restart.
    other = open_train()
    assert "Stop" in labels(other)
    button(other, "Stop").click().run()
    wait_for(app, run, "stopped")


def test_a_second_run_waits_and_can_be_taken_from_the_queue(open_train, root):
    app = open_train()
    field(app, "Name of the run").set_value("first").run()
    button(app, "Start training").click().run()
    (first,) = list_runs(root)
    wait_for(app, first, "running")
    app.session_state["train view"] = "New training"
    app.run()
    field(app, "Name of the run").set_value("second").run()
    button(app, "Start training").click().run()
    second = next(run for run in list_runs(root) if "second" in run.name)
    app.run()
    assert "waiting" in badges(app)
    assert "Take from the queue" in labels(app)
    button(app, "Take from the queue").click().run()
    assert second.status.state == "stopped"
    assert first.status.state == "running"


@pytest.mark.parametrize(
    ("state", "changes", "badge", "offered", "missing"),
    [
        ("running", this_process(), "running", ["Stop"], ["Delete for good", "Resume"]),
        ("stopped", {}, "stopped", ["Resume", "Delete for good"], ["Stop"]),
        ("failed", {"error": "x"}, "failed", ["Resume", "Delete for good"], ["Stop"]),
        ("finished", {}, "finished", ["Delete for good"], ["Stop", "Resume"]),
        ("queued", {}, "waiting", ["Resume", "Delete for good"], ["Stop"]),
        ("queued", this_process(), "starting", ["Stop"], ["Resume"]),
    ],
)
def test_each_state_has_its_badge_and_buttons(
    open_train, root, state, changes, badge, offered, missing
):
    made(root, state=state, **changes)
    app = open_train()
    assert badge in badges(app)
    assert set(offered) <= set(labels(app))
    assert not set(missing) & set(labels(app))


def test_a_run_that_was_asked_to_stop_can_be_ended(open_train, root):
    run = made(root, state="running", **this_process())
    run.request_stop()
    app = open_train()
    assert "stopping" in badges(app)
    assert "End now" in labels(app)


def test_a_dead_process_shows_its_last_lines(open_train, root):
    run = made(root, state="running", pid=2**22 + 1, pid_started_at=1.0, host="")
    (run.folder / "log.txt").write_text("epoch 1\nepoch 2\n")
    (run.folder / CONSOLE).write_text("epoch 1\nepoch 2\nKilled\n")
    app = open_train()
    assert "failed" in badges(app)
    assert "The training process ended unexpectedly" in texts(app)
    assert any("epoch 2\nKilled" in code.value for code in app.code)


def test_delete_asks_and_then_deletes(open_train, root):
    run, other = made(root, "one"), made(root, "two")
    app = open_train(run=run.name)
    button(app, "Delete for good").click().run()
    assert [r.name for r in list_runs(root)] == [other.name]
    assert not app.exception


def test_finished_run_opens_on_the_other_pages(open_train, root, models):
    run = made(root)
    run.checkpoint.symlink_to(models["texas"])
    app = open_train()
    button(app, "Open on the map page").click().run()
    assert app.session_state["model"] == str(run.folder)
    assert not app.exception
    assert "Where was this photo taken?" in [title.value for title in app.title]


def test_numbers_of_a_finished_run_have_intervals(open_train, root):
    run = made(root)
    (run.folder / "metrics.json").write_text(
        '{"n": 45, "median_km": 3.9, "geoscore": 4549.0, "about": {"split": "test"},'
        '"context": {"climate": {"top1": 0.84, "majority": 0.53}},'
        '"intervals": {"median_km": [3.2, 10.1]},'
        '"baselines": {"constant": {"median_km": 590.0}}}'
    )
    app = open_train()
    (median,) = (metric for metric in app.metric if metric.label == "Median error")
    assert (median.value, median.delta) == ("3.9 km", "3.2 km – 10 km")
    assert "climate **84 %** (53 %)" in texts(app)
    assert "590 km" in texts(app)


def test_several_runs_on_one_chart_with_their_differences(open_train, root):
    made(root, "one")
    run = made(root, "two")
    text = (run.folder / "config.yaml").read_text().replace("epochs: 3", "epochs: 7")
    (run.folder / "config.yaml").write_text(text)
    app = open_train(**{"train view": "All runs"})
    table, differences = (item.value for item in app.dataframe)
    assert list(table["Run"]) == ["two", "one"]
    assert list(table["Best median km (val)"]) == [180.0, 180.0]
    assert list(table["Progress"]) == [0, 0]
    assert table["GeoScore"].isna().all()
    assert differences.loc["Epochs"].to_dict() == {"one": "3", "two": "7"}
    assert field(app, "Compare by").value == "val/median_km"


def test_a_run_can_be_repeated_with_its_options(open_train, root):
    run = made(root, "earlier")
    app = open_train()
    button(app, "Train again with these options").click().run()
    assert field(app, "Recipe").value == str(run.folder / "config.yaml")
    assert field(app, "Epochs").value == 3
    assert field(app, "Name of the run").placeholder == "earlier"


def test_a_pretrained_backbone_opens_in_the_form_of_a_fit(open_train, root):
    run = Run.create(root, "towers", {"data": "/photos"}, "pretrain")
    run.checkpoint.mkdir()
    run.update(state="finished")
    app = open_train()
    button(app, "Train geolocation on this backbone").click().run()
    assert field(app, "Backbone").value == str(run.folder)


def test_hostile_names_and_broken_folders_are_shown_as_text(open_train, root):
    good = made(root)
    evil = root / "20260101-000000-**bold** <script>[x](http:..)"
    good.folder.rename(evil)
    Run(evil).update(title="**bold** <script>[x](http:..)")
    broken = root / "broken"
    broken.mkdir()
    (broken / "status.json").write_text("{")
    (root / "20260101-000001-odd").mkdir()
    app = open_train()
    warned = " ".join(item.value for item in app.warning)
    assert "broken/status" in warned
    assert "is not JSON" in warned
    assert "\\*\\*bold\\*\\*" in app.subheader[0].value


def test_runs_of_one_name_can_be_told_apart(open_train, root):
    first, second = made(root, "same"), made(root, "same")
    app = open_train()
    assert sorted(field(app, "Run").options) == ["same", "same 2"]
    # runs of older versions have the names of their folders
    second.folder.rename(root / "20260101-000000-same")
    now = first.status.created_at
    first.update(created_at=now, title="")
    Run(root / "20260101-000000-same").update(created_at=now, title="")
    app = open_train()
    assert sorted(field(app, "Run").options) == ["20260101-000000-same", first.name]


def test_runs_folder_can_be_changed(open_train, tmp_path, models):
    elsewhere = tmp_path / "elsewhere"
    run = made(elsewhere, "far")
    app = open_train()
    run.checkpoint.symlink_to(models["texas"])
    field(app, "Runs folder").set_value(str(elsewhere)).run()
    assert "far" in app.subheader[0].value
    # The other pages look for models there too.
    app.switch_page("app.py").run()
    assert run.title in field(app, "Model").options


def test_all_runs_have_the_scores_of_their_photos(open_train, root):
    run = made(root, "tested", progress=0.106733)
    (run.folder / "metrics.json").write_text(
        '{"n": 45, "median_km": 3.9, "geoscore": 4549.0, "about": {"split": "test"}}'
    )
    made(root, "stopped", "stopped")
    app = open_train(**{"train view": "All runs"})
    table = app.dataframe[0].value.set_index("Run")
    assert table.loc["tested", ["GeoScore", "Median km", "On"]].to_list() == [4549.0, 3.9, "test"]
    assert table.loc["tested", "Progress"] == 11
    assert table.loc["stopped", "On"] == ""
    assert table.loc["stopped", ["GeoScore", "Median km"]].isna().all()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"error": "too small to train: 20", "mistake": True}, "would fail in the same way"),
        ({"data": "/no/such/folder"}, "cannot be resumed: /no/such/folder: no such folder"),
        ({"epochs": "many"}, "cannot be resumed"),
        ({"config": "{"}, "cannot be resumed"),
    ],
)
def test_resume_is_offered_only_where_it_can_work(open_train, root, changes, why):
    known = {key: value for key, value in changes.items() if key in ("error", "mistake")}
    run = made(root, state="failed", **known)
    path = run.folder / "config.yaml"
    config = run.config | {key: changes[key] for key in ("data", "epochs") if key in changes}
    path.write_text(changes.get("config") or yaml.safe_dump({"command": "fit", "fit": config}))
    app = open_train()
    assert "Resume" not in labels(app)
    assert why in texts(app).replace("\\", "")


def test_an_error_is_said_once(open_train, root):
    error = "photos: too small to train: 20 photos are needed, and there are 7"
    run = made(root, state="failed", error=error, mistake=True)
    (run.folder / "log.txt").write_text(f"2026-11-28 10:00:00 error: {error}\n")
    (run.folder / CONSOLE).write_text(f"2026-11-28 10:00:00 error: {error}\n")
    app = open_train()
    assert texts(app).replace("\\", "").count("too small to train") == 1


def test_choosing_a_run_shows_it(open_train, root):
    made(root, "one")
    first = list_runs(root)[0]
    made(root, "two")
    app = open_train(**{"train view": "All runs"})
    field(app, "Run").select(first.name).run()
    assert app.session_state["train view"] == "This run"
    assert app.subheader[0].value == "one"


def test_a_link_shows_the_same_run_dataset_and_view(open_train, root, demo, tmp_path):
    one = made(root, "one")
    made(root, "two")
    app = open_train(run=one.name)
    assert app.query_params["run"] == one.name
    assert app.query_params["dataset"] == str(demo)
    other = AppTest.from_file(str(ROOT / "app.py"), default_timeout=180)
    other.session_state["model"] = "there is no such model"
    other.switch_page(PAGE)
    other.query_params["run"] = one.name
    other.query_params["dataset"] = str(demo)  # which was opened before
    other.query_params["show"] = "all"
    other.run()
    assert field(other, "Run").value == one.name
    assert field(other, "Dataset").value == str(demo)
    assert other.session_state["train view"] == "All runs"
    stranger = tmp_path / "never-opened"
    stranger.mkdir()
    (stranger / "train_mini.csv").touch()
    third = AppTest.from_file(str(ROOT / "app.py"), default_timeout=180)
    third.session_state["model"] = "there is no such model"
    third.switch_page(PAGE)
    third.query_params["dataset"] = str(stranger)
    third.query_params["show"] = "<script>"
    third.run()
    assert not third.exception
    assert str(stranger) not in field(third, "Dataset").options


def test_a_model_is_extended_from_the_page(open_train, root, demo):
    app = open_train(**{"train task": "extend"})
    assert field(app, "Model to extend").value == "mini"
    assert not [item for item in app.number_input]
    button(app, "Start training").click().run()
    (run,) = list_runs(root)
    assert run.title == "mini extended"
    assert run.config["extend"] == "mini"
    assert run.config["data"] == str(demo)
    runs.kill(run)
    run.update(state="finished")
    app.run()
    button(app, "Train again with these options").click().run()
    assert field(app, "Model to extend").value == "mini"


def test_too_few_photos_to_extend_are_said(open_train, root, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    (few / "train_mini.csv").write_text("id,latitude,longitude\na,1,2\nb,2,3\n")
    app = open_train(dataset=str(few), **{"train task": "extend"})
    assert "5 photos are needed to extend a model, and there are 2." in texts(app).replace("\\", "")
    assert button(app, "Start training").disabled
