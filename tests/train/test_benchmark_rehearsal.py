"""The rehearsal: its steps in order, again after an interruption, and its table."""

import json
import subprocess
import time
from dataclasses import asdict

import pytest

from geoclip_core.checks import checked
from train.__main__ import main
from train.benchmarks.measure import FULL_ROWS, Cost, Interrupted, run_measured
from train.benchmarks.rehearsal import (
    Rehearsal,
    RehearsalOptions,
    commands,
    markdown,
    rehearse,
    size_mb,
)
from ui.evaluation.panels import rehearsal_summary

METRICS = {
    "n": 450,
    "geoscore": 4000.0,
    "median_km": 120.4,
    "accuracy_at_km": {"25": 0.125, "200": 0.75},
    "coverage": {"50": 0.5, "90": 0.9},
    "context": {"month": {"n": 450, "top1": 0.25}},
}


def steps_of(options, fails="", stopped=""):
    """Rehearse with commands that only write a file each; return them, and the rehearsal."""
    ran = []

    def run(command, folder):
        ran.append(command)
        if fails and fails in command:
            raise ValueError("the disk is full")
        (folder / f"{len(list(folder.iterdir()))}.bin").write_bytes(bytes(2_000_000))
        if "evaluate" in command:
            target = folder / "evaluations" / "run" / "metrics.json"
            target.parent.mkdir(parents=True)
            target.write_text(json.dumps(METRICS))
        if stopped and stopped in command:
            raise Interrupted(Cost(20.0, 30.0, 2000.0))
        return Cost(60.0, 90.0, 1234.0)

    try:
        return ran, rehearse(options, run)
    except (ValueError, Interrupted):
        return ran, None


def test_every_step_runs_once_and_an_interrupted_rehearsal_continues(tmp_path):
    options = RehearsalOptions(rows=500, folder=tmp_path / "there")
    ran, done = steps_of(options, fails="fit")
    assert ([command[2] for command in ran], done) == (
        ["demo-data", "doctor", "embed", "fit"],
        None,
    )
    ran, done = steps_of(options)
    assert [c[2] if len(c) > 2 else c[0][-13:] for c in ran] == [
        *("fit", "evaluate", "report", "open_pages.py")
    ]
    assert [step.name for step in done.steps] == list(commands(options))
    assert done.steps[-1].disk_mb == pytest.approx(2.0, abs=0.01)
    assert done.result["within_25_km"] == 0.125
    assert done.result["month_top1"] == 0.25
    ran, again = steps_of(options)
    assert (ran, again) == ([], done)
    with pytest.raises(ValueError, match="500 rows"):
        rehearse(RehearsalOptions(rows=600, folder=tmp_path / "there"))


def test_what_an_interrupted_step_took_is_added_if_it_is_continued(tmp_path):
    options = RehearsalOptions(rows=500, folder=tmp_path)
    for stopped in ("embed", "embed", "fit"):
        steps_of(options, stopped=stopped)
    ran, done = steps_of(options)
    assert ran[0][2] == "fit"
    took = {step.name: (step.seconds, step.cpu_seconds, step.peak_mb) for step in done.steps}
    assert took["embed"] == (100.0, 150.0, 2000.0)
    assert took["fit"] == (60.0, 90.0, 1234.0)


def test_the_table_names_the_command_and_extrapolates(tmp_path):
    _, done = steps_of(RehearsalOptions(rows=1000, folder=tmp_path))
    text = markdown(done)
    assert "`python -m train benchmark rehearsal --rows 1000`" in text
    assert f"| fit | 1.0 | 1.5 | 1,234 | 2 | {1.5 * FULL_ROWS / 1000:.0f} CPU minutes" in text
    assert "computed, not measured" in text
    assert "75% within 200 km" in text
    _, whole = steps_of(RehearsalOptions(rows=FULL_ROWS, folder=tmp_path / "whole"))
    assert "expected" not in markdown(whole)
    assert checked(Rehearsal, json.loads(json.dumps(asdict(done))), "it") == done
    assert done.steps[-1].command == ["scripts/open_pages.py"]  # not where this checkout lies
    assert "120 km, 75% are within 200 km" in rehearsal_summary(done)
    assert f"({'of 119,008'} in OSV-Mini-129k)" in rehearsal_summary(done)


def test_embed_and_fit_find_the_same_embeddings():
    """The photos are embedded by `embed`; `fit` must not do it again with other options."""
    steps = commands(RehearsalOptions())
    assert steps["embed"][steps["embed"].index("--views") + 1] == "160x256"
    assert {"--cache-dir", "embeddings"} <= set(steps["fit"])


def test_a_process_is_measured_and_its_failure_told(tmp_path):
    used = run_measured(["-c", "open('made', 'wb').write(bytes(3_000_000))"], tmp_path)
    assert used.seconds > 0
    assert used.peak_mb > 1
    assert size_mb(tmp_path) == pytest.approx(3.0, abs=0.1)
    with pytest.raises(ValueError, match="no such step"):
        run_measured(["-c", "raise SystemExit('no such step')"], tmp_path)


def test_a_stopped_process_says_what_it_took(tmp_path, monkeypatch):
    waits = []

    class Stopped(subprocess.Popen):
        def wait(self, timeout=None):
            waits.append(1)
            if len(waits) == 1:
                while not (tmp_path / "begun").exists():
                    time.sleep(0.01)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Stopped)
    with pytest.raises(Interrupted) as caught:
        run_measured(["-c", "import time; open('begun', 'w'); time.sleep(600)"], tmp_path)
    assert 0 < caught.value.cost.seconds < 500


@pytest.mark.slow
def test_heads_are_timed(capsys):
    assert main(["benchmark", "heads", "--rows", "600", "--epochs", "1", "--evaluated", "5"]) == 0
    shown = capsys.readouterr().out
    assert "600 photos, embeddings of 1,752 numbers" in shown
    assert "1 epochs" in shown
    assert "peak memory" in shown
