"""No file of a stranger takes a page down: what cannot be read is named, the rest is shown."""

import copy
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geoclip_core.data.dataset import DESCRIPTION_FILE, csv_path
from geoclip_core.data.doctor import REPORT_FILE
from geoclip_core.data.importing import NOT_IMPORTED_FILE
from geoclip_core.evaluation.predictions import write_predictions
from tests.data import layout
from tests.evaluation.synthetic_predictions import synthetic_predictions
from tests.training.test_hostile_runs import OPTIONS, STATUS
from tests.ui.conftest import ROOT, opened, texts
from tests.ui.test_evaluation_page import TABS
from train.benchmarks.hostile import paths
from ui.page import DATASETS_VARIABLE, RUNS_VARIABLE

pytestmark = pytest.mark.slow

RAW = {
    "empty": b"",
    "null": b"null",
    "number": b"1e400",
    "digits": b"9" * 10_000,
    "list": b"[]",
    "text": b'"x"',
    "nan": b"NaN",
    "deep": b"[" * 100_000,
    "nested": b'{"a":' * 500 + b"1" + b"}" * 500,
    "half": b'{"a": 1',
    "binary": b"\xff\xfe\x00\x80",
    "surrogate": b'{"\\ud800": "\\ud800"}',
    "zeros": b"\0" * 100,
    "empty-object": b"{}",
}
"""Contents where JSON, YAML or text is expected."""

WRONG = (
    *(float("nan"), float("inf"), -1, 1e308, 10**400, 10**18, None, True, "x", "", "a" * 30_000),
    *([], {}, [[]], [None], {"a": {"b": [1]}}, {"x" * 300: 1}),
)
"""Values where another one is expected."""

METRICS = {
    "n": 30,
    "median_km": 180.0,
    "geoscore": 1100.0,
    "accuracy_at_km": {"25": 0.1, "200": 0.2, "750": 0.4},
    "about": {"split": "val", "model": "m"},
    "intervals": {
        "median_km": [100.0, 300.0],
        "geoscore": [900.0, 1200.0],
        "accuracy_at_km": {"25": [0.0, 0.2]},
    },
    "baselines": {"constant": {"median_km": 900.0}},
    "context": {"climate": {"top1": 0.5, "majority": 0.3}},
}
PRETRAINED = {
    "val": {
        "n": 30,
        "retrieval": {"among": 30, "image_to_text": 0.2},
        "zero_shot": {"climate": {"top1": 0.3, "majority": 0.2}},
    }
}
REPORT = {
    "rows": {"train_mini.csv": 6},
    "photos_checked": 6,
    "must_fix": True,
    "findings": [
        {
            "severity": "error",
            "message": "a file is missing",
            "count": 2,
            "examples": [{"file": "a.jpg", "row": 3, "id": "x", "value": 1.5}],
        }
    ],
}


def changed(document, values=WRONG):
    """Copies of a document, each with one wrong value; every place gets two of the values."""
    copies = []
    for place in paths(document)[1:]:
        for _ in range(2):
            copied = copy.deepcopy(document)
            at = copied
            for part in place[:-1]:
                at = at[part]
            at[place[-1]] = copy.deepcopy(values[len(copies) % len(values)])
            copies.append(copied)
    return copies


def make_run(root, name, task="fit", metrics=METRICS):
    """A finished run, written without its process."""
    folder = root / f"20260101-000000-{name}"
    folder.mkdir(parents=True)
    status = STATUS | {"state": "finished", "task": task}
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "config.yaml").write_text(json.dumps({"command": task, task: OPTIONS}))
    lines = [{"step": i, "time": float(i), "train/loss": 5.0, "val/loss": 4.0} for i in range(9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "log.txt").write_text("step 1\n")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path / "runs"))
    monkeypatch.setenv(DATASETS_VARIABLE, str(tmp_path / "datasets"))
    return tmp_path


def said(app):
    parts = [texts(app), *(str(box.value) for box in (*app.warning, *app.success, *app.metric))]
    return "\n".join(parts).replace("\\", "")


def check_runs(root):
    """Open all views of the Train page for every run; return run -> what is said about it."""
    app = opened("pages/3_Train.py", train_view="All runs")
    found = {"": said(app)}
    app = opened("pages/3_Train.py", train_view="This run")
    for name in sorted(folder.name for folder in root.iterdir()):
        if name not in (option.rsplit("/")[-1] for option in _values(app)):
            continue
        app.selectbox(key="run").set_value(name).run()
        assert not app.exception, (name, app.exception)
        found[name.removeprefix("20260101-000000-")] = said(app)
    return found


def _values(app):
    """Folders of the runs that the select box offers."""
    from geoclip_core.training.runs import list_runs
    from ui.page import runs_folder

    return [run.folder.name for run in list_runs(runs_folder())]


@pytest.mark.parametrize(
    "file", ["status.json", "config.yaml", "metrics.jsonl", "metrics.json", "log.txt"]
)
def test_train_page_shows_runs_beside_one_with_a_hostile_file(place, file):
    make_run(place / "runs", "good")
    # a last line without an end may still be in writing
    end = b"\n" if file == "metrics.jsonl" else b""
    for kind, content in RAW.items():
        (make_run(place / "runs", kind) / file).write_bytes(content + end)
    found = check_runs(place / "runs")
    assert "180 km" in found["good"]
    if file == "status.json":
        assert set(found) == {"", "good"}
        assert "status.json" in found["good"]
        assert f"and {len(RAW) - 5} more" in found["good"]
        return
    assert set(found) == {"", "good", *RAW}
    nothing = {"metrics.jsonl": {"empty"}, "metrics.json": {"empty-object"}, "log.txt": set(RAW)}
    silent = {kind for kind in RAW if file not in found[kind]}
    assert silent <= nothing.get(file, set())


@pytest.mark.parametrize("task", ["fit", "pretrain"])
@pytest.mark.parametrize("file", ["status.json", "config.yaml", "metrics.json"])
def test_train_page_names_the_field_that_is_wrong(place, file, task):
    good = METRICS if task == "fit" else PRETRAINED
    documents = {
        "status.json": STATUS | {"state": "finished", "task": task},
        "config.yaml": {"command": task, task: OPTIONS},
        "metrics.json": good,
    }
    for number, document in enumerate(changed(documents[file])):
        folder = make_run(place / "runs", f"{number:03}", task, good)
        (folder / file).write_text(json.dumps(document))
    check_runs(place / "runs")


def test_train_page_draws_metrics_of_ten_thousand_names(place):
    folder = make_run(place / "runs", "many")
    row = {"step": 1} | {f"train/{i}": 1.0 for i in range(10_000)}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(40)))
    found = check_runs(place / "runs")["many"]
    assert "more than 300 metrics" in found
    assert "more metrics are not drawn" in found


FRAME = synthetic_predictions(40)


def tables():
    """Name -> predictions table of a stranger."""
    floats = FRAME.select_dtypes("floating").columns
    made = {
        "duplicate-ids": FRAME.assign(id="same"),
        "null-ids": FRAME.assign(id=[None, *FRAME["id"][1:]]),
        "number-ids": FRAME.assign(id=range(40)),
        "no-rows": FRAME.head(0),
        "one-row": FRAME.head(1),
        "only-core": FRAME.iloc[:, :9],
        "same-place": FRAME.assign(latitude=0.0, longitude=0.0, error_km=0.0),
        "poles": FRAME.assign(latitude=90.0, longitude=180.0, predicted_latitude=-90.0),
        "no-radius": FRAME.assign(radius_50_km=np.nan, radius_90_km=np.nan),
        "zero-radius": FRAME.assign(radius_50_km=0.0, radius_90_km=0.0),
        "classes": FRAME.assign(climate_top1="99", month_top1="-1", climate_truth="x"),
        "ranks": FRAME.assign(climate_rank=10**6),
        "long-keys": FRAME.assign(city_top1="a" * 5000, city_truth="b" * 5000),
        "extra-head": FRAME.rename(columns=lambda c: c.replace("climate_", "![x](y)_")),
        "baseline": FRAME.assign(**{"baseline_![x](y)_km": 5.0, "baseline__km": np.nan}),
        "keys": FRAME.assign(country_key=[str(i) for i in range(40)], state_key="", city_key="_"),
        "codes": FRAME.assign(climate=-5, month=-(10**6)),
        "paths": FRAME.assign(path=["\0", "../../etc/passwd", "x" * 5000, "/"] * 10),
        "sequence": FRAME.assign(sequence=[None, "", "a", "a" * 999] * 10),
    }
    for value in (np.nan, np.inf, -np.inf, 1e308):
        made[f"all-{value}"] = FRAME.assign(**dict.fromkeys(floats, value))
        for column in ("error_km", "radius_50_km", "climate_probability", "log_density"):
            made[f"{column}-{value}"] = FRAME.assign(**{column: value})
    return made


ABOUT = ({"model": "m" * 3000}, {"dataset": "", "split": ""}, {"root": "/"}, {"use_context": True})


def test_evaluation_page_shows_tables_of_strangers_or_names_what_is_wrong(place):
    good = place / "evaluations" / "good" / "predictions.parquet"
    write_predictions(FRAME, good, {"model": "good", "dataset": "d", "split": "test"})
    for number, (name, frame) in enumerate(tables().items()):
        path = place / "evaluations" / name / "predictions.parquet"
        write_predictions(frame, path, {"model": name, "dataset": "d"} | ABOUT[number % 4])
    check_evaluations(place)


def check_evaluations(place):
    """Open the Evaluation page with every table and every tab; return what it said."""
    shown = []
    start = opened("pages/2_Evaluation.py")
    for data in start.selectbox(key="evaluation dataset").options:
        app = opened("pages/2_Evaluation.py", evaluation_dataset=data)
        for number in range(len(app.selectbox(key="evaluation model").options)):
            app.selectbox(key="evaluation model").select_index(number).run()
            assert not app.exception, (app.selectbox(key="evaluation model").value, app.exception)
            shown.append(said(app))
            if app.error:
                continue
            for tab in TABS[1:]:
                app.session_state["evaluation tab"] = tab
                app.run()
                named = app.selectbox(key="evaluation model").value
                assert not app.exception, (named, tab, app.exception)
                shown.append(said(app))
            app.session_state["evaluation tab"] = TABS[0]
    return "\n".join(shown)


def test_evaluation_page_names_damaged_tables_and_shows_the_rest(place):
    folder = place / "evaluations"
    write_predictions(FRAME, folder / "good" / "predictions.parquet", {"model": "good"})
    content = (folder / "good" / "predictions.parquet").read_bytes()
    half = len(content) // 2
    damaged = {
        **RAW,
        "cut": content[:half],
        "no-middle": content[:half] + content[half + 200 :],
        "wrong-middle": content[: half - 50] + b"\x99" * 100 + content[half + 50 :],
        "wrong-start": b"\x99" * 400 + content[400:],
    }
    for name, bad in damaged.items():
        (folder / name).mkdir()
        (folder / name / "predictions.parquet").write_bytes(bad)
    for number, text in enumerate((b"{", b"[]", b'{"model": 3}', b"\xff", b"[" * 99_999)):
        table = pa.Table.from_pandas(FRAME).replace_schema_metadata(
            {b"geolocation_predictions": text, b"pandas": b"{"}
        )
        (folder / f"about-{number}").mkdir()
        pq.write_table(table, folder / f"about-{number}" / "predictions.parquet")
    app = opened("pages/2_Evaluation.py")
    named = "\n".join(box.value for box in app.sidebar.warning).replace("\\", "")
    for name in (*RAW, "cut", *(f"about-{number}" for number in range(5))):
        assert f"evaluations/{name}/predictions.parquet" in named, name
    assert "40 photos" in check_evaluations(place)


def test_evaluation_page_compares_with_a_table_of_other_photos(place):
    for name, frame in (
        ("a", FRAME),
        ("b", FRAME.assign(id=[f"other-{i}" for i in range(40)])),
        ("c", FRAME.head(1)),
        ("d", FRAME.assign(latitude=0.0)),
    ):
        about = {"model": name, "dataset": "d", "use_context": name == "a"}
        write_predictions(frame, place / "evaluations" / name / "predictions.parquet", about)
    app = opened("pages/2_Evaluation.py", evaluation_dataset="d")
    names = app.selectbox(key="evaluation model").options
    for number in range(len(names)):
        app.selectbox(key="evaluation model").select_index(number).run()
        rest = [name for name in app.multiselect(key="evaluation compared").options]
        app.multiselect(key="evaluation compared").set_value(rest[:3]).run()
        for tab in TABS:
            app.session_state["evaluation tab"] = tab
            app.run()
            assert not app.exception, (names[number], tab, app.exception)


def test_evaluation_page_of_three_hundred_thousand_rows(place):
    frame = synthetic_predictions(300_000, candidates=False)
    path = place / "evaluations" / "large" / "predictions.parquet"
    write_predictions(frame, path, {"model": "large", "dataset": "d"})
    assert "300,000 photos" in check_evaluations_of(place, "d")


def check_evaluations_of(place, data):
    app = opened("pages/2_Evaluation.py", evaluation_dataset=data)
    shown = [said(app)]
    for tab in TABS[1:]:
        app.session_state["evaluation tab"] = tab
        app.run()
        assert not app.exception, (tab, app.exception)
        shown.append(said(app))
    return "\n".join(shown)


CHECKPOINT = ("config.json", "vocabularies.json", "calibration.json", "metrics.json", "domain.json")


@pytest.mark.parametrize("page", ["app.py", "pages/1_Context_heads.py"])
def test_pages_with_a_model_of_a_stranger_name_its_file(place, models, page):
    runs = place / "runs"
    for file in (*CHECKPOINT, "model.safetensors"):
        for kind, content in RAW.items():
            folder = runs / f"{file}-{kind}"
            shutil.copytree(models["texas"], folder / "checkpoint")
            (folder / "checkpoint" / file).write_bytes(content)
    for folder in sorted(runs.iterdir()):
        app = opened(page, model=str(folder))
        file = folder.name.rpartition(".")[0]
        shown = said(app)
        answered = "Even odds" in shown
        assert answered or f"{file}." in shown, folder.name
        if not answered:
            assert len(app.error) == 1


@pytest.mark.parametrize("file", CHECKPOINT)
def test_map_page_with_one_wrong_value_in_a_model(place, models, file):
    source = json.loads((ROOT / "geoclip_core/checkpoints/mini" / file).read_text())
    path = place / "runs" / "wrong" / "checkpoint"
    shutil.copytree(models["texas"], path)
    own = path / file
    document = json.loads(own.read_text()) if own.exists() else source
    documents = changed(document)
    step = max(1, len(documents) // 40)
    for document in documents[::step]:
        own.write_text(json.dumps(document))
        app = opened("pages/1_Context_heads.py", model=str(path.parent))
        assert "Even odds" in said(app) or app.error


TABLES = {
    **RAW,
    "one-column": b"a\n1\n2\n",
    "no-rows": ",".join(layout.COLUMNS).encode() + b"\n",
    "commas": b",,,,\n,,,,\n",
    "html": b"<html><img src=x></html>",
    "quotes": b'"' * 1001,
    "long-line": b"id,latitude,longitude\n" + b"x" * 200_000 + b",1,2\n",
    "wide": ",".join(f"c{i}" for i in range(5000)).encode() + b"\n",
}


def test_dataset_page_names_tables_that_are_nonsense(place):
    layout.make(place / "datasets" / "good")
    for kind, content in TABLES.items():
        root = layout.make(place / "datasets" / kind)
        csv_path(root, "train").write_bytes(content)
    for root in sorted((place / "datasets").iterdir()):
        for view in ("Explore", "Check"):
            app = opened("pages/4_Dataset.py", dataset=str(root), dataset_view=view)
            if root.name not in ("good", "no-rows") and view == "Explore":
                assert "train_mini.csv" in said(app), root.name
        opened("pages/3_Train.py", dataset=str(root))
        opened("pages/5_Play.py", dataset=str(root))


@pytest.mark.parametrize(
    "values",
    [
        {"latitude": "nan"},
        {"latitude": "91"},
        {"longitude": "1e308"},
        {"captured_at": "1e300"},
        {"captured_at": "-4e12"},
        {"climate": "99"},
        {"climate": "x"},
        {"id": ""},
        {"id": "same"},
        {"city": "![x](y)" * 500},
        {"region": "\u2028\u202e"},
        {"region": "a" * 290},
        {"region": "é" * 140, "id": "../../x"},
        {"country": "x"},
    ],
    ids=str,
)
def test_dataset_page_with_one_wrong_column(place, values):
    root = layout.make(place / "datasets" / "wrong")
    path = csv_path(root, "train")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.assign(**values).to_csv(path, index=False)
    for view in ("Explore", "Check"):
        app = opened("pages/4_Dataset.py", dataset=str(root), dataset_view=view)
        if app.error:
            assert "train_mini.csv" in said(app)


@pytest.mark.parametrize("file", [REPORT_FILE, NOT_IMPORTED_FILE, DESCRIPTION_FILE])
def test_dataset_page_names_its_other_files(place, file):
    for kind, content in RAW.items():
        root = layout.make(place / "datasets" / kind)
        (root / file).write_bytes(content)
        view = "Check" if file == REPORT_FILE else "Explore"
        app = opened("pages/4_Dataset.py", dataset=str(root), dataset_view=view)
        if file != DESCRIPTION_FILE:
            assert file in said(app), kind
            assert app.warning


def test_dataset_page_names_the_field_of_a_report_that_is_wrong(place):
    root = layout.make(place / "datasets" / "wrong")
    (root / REPORT_FILE).write_text(json.dumps(REPORT))
    app = opened("pages/4_Dataset.py", dataset=str(root), dataset_view="Check")
    assert "A file is missing" in "".join(box.label for box in app.expander)
    for document in changed(REPORT):
        (root / REPORT_FILE).write_text(json.dumps(document))
        app = opened("pages/4_Dataset.py", dataset=str(root), dataset_view="Check")
        if app.warning:
            assert f"{REPORT_FILE} " in said(app)


TYPED = (
    "x" * 300,
    "x" * 5000,
    "/x" * 4000,
    "~nobody/x",
    "a\0b",
    "\u202e",
    "![x](y)",
    "-",
    "http://x",
)
"""What may be typed where a folder, a file or a model is asked for."""


@pytest.mark.parametrize("text", TYPED, ids=range(len(TYPED)))
def test_what_is_typed_takes_no_page_down(place, text, monkeypatch):
    layout.make(place / "datasets" / "good")
    for page in ("app.py", "pages/1_Context_heads.py"):
        assert opened(page, model=text).error
    opened("pages/3_Train.py", runs_folder=text)
    for page in ("pages/3_Train.py", "pages/4_Dataset.py", "pages/5_Play.py"):
        assert opened(page, dataset=text).error
    app = opened("pages/4_Dataset.py", dataset_view="Add a dataset")
    app.text_input(key="download archive").set_value(text)
    (fetch,) = (one for one in app.button if one.label == "Fetch")
    fetch.click().run()
    assert not app.exception, app.exception
    assert app.error
    # A browser sends what is typed as it is, AppTest what the box would show for it.
    monkeypatch.setattr("ui.page.printable", str)
    app = opened("pages/4_Dataset.py", dataset_view="Add a dataset")
    app.segmented_control(key="import way").set_value("Choose a folder").run()
    box = app.selectbox(key="import folder 0")
    box.options.append(text)
    box.set_value(text).run()
    assert not app.exception, app.exception
    assert app.error
