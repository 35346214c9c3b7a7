"""Run folders of strangers: read within limits, and what cannot be read is named."""

import contextlib
import json
import os

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoclip_core.errors import FileError, SaveError
from geoclip_core.jobs import JobError
from geoclip_core.results import read_results
from geoclip_core.training.runs import (
    CONFIG,
    LOG,
    MAX_NAMES,
    METRICS,
    Run,
    RunStatus,
    find_runs,
    list_runs,
)
from tests.hostile import damaged_bytes, edited_json

BOUNDED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
OPTIONS = {"data": "/photos/demo", "epochs": 3, "geocells": {"cells": 12}, "features": ["climate"]}


@pytest.fixture
def run(tmp_path):
    made = Run.create(tmp_path / "runs", "demo", OPTIONS, "fit")
    for step in range(1, 6):
        made.log_metrics({"step": step, "time": 100.0 + step, "train/loss": 5.0 / step})
    made.update(best={"median_km": 180.0}, state="finished", progress=1.0, step=5, total_steps=5)
    return made


STATUS = {
    "state": "running",
    "pid": 4_000_000,
    "pid_started_at": 1.0,
    "host": "",
    "created_at": 1.7e9,
    "started_at": 1.7e9,
    "updated_at": 1.7e9,
    "task": "fit",
    "progress": 0.5,
    "phase": "training",
    "step": 5,
    "total_steps": 10,
    "eta_seconds": 60.0,
    "best": {"median_km": 100.0},
    "error": None,
}


@BOUNDED
@given(text=edited_json(STATUS))
def test_any_status_is_read_or_refused_with_its_file(run, text):
    run.status_path.write_text(text)
    try:
        status = run.status
    except JobError as error:
        named = str(error)
    else:
        named = ""
        assert isinstance(status, RunStatus)
        json.dumps([status.created_at, status.progress, status.step], allow_nan=False)
    assert not named or named.startswith(str(run.status_path))
    runs, problems = find_runs(run.folder.parent)
    assert len(runs) + len(problems) == 1


@BOUNDED
@given(data=st.data())
def test_any_config_is_read_or_refused(run, data):
    content = {"command": "fit", "fit": OPTIONS}
    if data.draw(st.booleans()):
        text = data.draw(edited_json(content))  # JSON is YAML
        (run.folder / CONFIG).write_text(text)
    else:
        content_bytes = yaml.safe_dump(content).encode()
        (run.folder / CONFIG).write_bytes(data.draw(damaged_bytes(content_bytes)))
    with contextlib.suppress(JobError):
        assert all(isinstance(name, str) for name in run.config)


@BOUNDED
@given(data=st.data())
def test_any_line_of_metrics_gives_numbers(run, data):
    lines = [{"step": 1, "train/loss": 5.0}, {"step": 2, "val/median_km": 9.0}]
    text = "\n".join(data.draw(edited_json(line)) for line in lines) + "\n"
    (run.folder / METRICS).write_text(text)
    table = run.metrics_table(10)
    assert len(table.rows) <= 2
    for row in table.rows:
        assert row["step"] >= 0
        assert all(isinstance(value, int | float) for value in row.values())
    if len(table.rows) < 2:
        assert "metrics.jsonl" in table.problem


def test_metrics_of_ten_thousand_names_are_cut(run):
    row = {"step": 1} | {f"train/{i}": 1.0 for i in range(10_000)}
    (run.folder / METRICS).write_text("".join(json.dumps(row) + "\n" for _ in range(50)))
    table = run.metrics_table(100)
    assert len(table.rows) == 50
    assert {len(row) for row in table.rows} == {MAX_NAMES}
    assert f"line 1: more than {MAX_NAMES} metrics, and 49 more lines" in table.problem


def test_many_rows_are_thinned_evenly_and_validation_is_kept(run):
    lines = [f'{{"step": {i}, "train/loss": 1.0}}' for i in range(30_000)]
    lines[::1000] = [f'{{"step": {i}, "val/median_km": 1.0}}' for i in range(0, 30_000, 1000)]
    (run.folder / METRICS).write_text("\n".join(lines) + "\n")
    rows = run.metrics_table(500).rows
    assert 500 <= len(rows) <= 1030
    assert sum("val/median_km" in row for row in rows) == 30
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] > 29_000
    assert len(run.metrics()) == 30_000


def test_a_line_that_cannot_be_read_is_named_and_the_rest_shown(run):
    with (run.folder / METRICS).open("ab") as file:
        file.write(b'{"step": 6, "train/loss": "low"}\n[1]\n\xff\xfe\n{"step": 7, "train/loss"')
    table = run.metrics_table()
    assert [row["step"] for row in table.rows] == [1, 2, 3, 4, 5, 6]
    assert "line 6: 'train/loss' is 'low', and 2 more lines" in table.problem


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["status.json", CONFIG, METRICS, LOG, "metrics.json"])
def test_special_files_do_not_wait(run, name, kind):
    path = run.folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    runs, problems = find_runs(run.folder.parent)
    assert len(list_runs(run.folder.parent)) == len(runs)
    if name == "status.json":
        assert runs == []
        assert problems[0].startswith(str(path))
    assert run.log_tail() == []
    assert (name == METRICS) == bool(run.metrics_table().problem)
    if name == CONFIG:
        with pytest.raises(JobError, match=r"config\.yaml is a "):
            _ = run.config
    if name == "metrics.json":
        with pytest.raises(FileError, match=r"metrics\.json is a "):
            read_results(path)


def test_a_resumed_run_keeps_lines_as_they_are(run):
    with (run.folder / METRICS).open("a") as file:
        file.write('{"step": 5, "train/loss": NaN, "note": "x"}\n{"step": 9}\nnot json\n')
    run.forget_metrics_after(5)
    lines = (run.folder / METRICS).read_text().splitlines()
    assert len(lines) == 6
    assert lines[-1] == '{"step": 5, "train/loss": NaN, "note": "x"}'


def test_a_folder_that_vanishes_is_named(run):
    gone = run.folder.rename(run.folder.with_name("gone"))
    for write in (run.request_stop, lambda: run.log_metrics({"step": 6})):
        with pytest.raises(SaveError, match=r"the folder .* does not exist any more"):
            write()
    assert Run(gone).metrics()


@pytest.mark.parametrize("progress", [float("nan"), float("inf"), -1, "x", None, [1]])
def test_the_field_that_is_wrong_is_named(run, progress):
    status = json.loads(run.status_path.read_text()) | {"progress": progress}
    run.status_path.write_text(json.dumps(status))
    with pytest.raises(JobError, match=r"status\.json cannot be used: progress must be"):
        _ = run.status


def test_names_that_are_not_unicode_are_named_in_ascii(run):
    with (run.folder / METRICS).open("a") as file:
        file.write('{"step": 6, "\\ud800": 1.0}\n')
    assert r"line 6: '\ud800' is 1.0" in run.metrics_table().problem
    folder = run.folder.rename(os.fsdecode(os.fsencode(run.folder.parent) + b"/\xff"))
    runs, problems = find_runs(folder.parent)
    assert runs == []
    assert problems[0].encode().endswith(rb"\udcff is no name of a run: it is not UTF-8")
