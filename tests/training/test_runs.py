"""Run folders and `execute`: status, metrics, errors, and stop requests."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from geoclip_core.errors import BackboneError, DatasetError, TrainingError
from geoclip_core.jobs import JobError, this_process
from geoclip_core.training.runs import Run, list_runs
from geoclip_core.training.session import RunSession, StopRequestedError, describe, execute


def _run(root, name="test", **status):
    run = Run.create(root, name, {"data": "x", "epochs": 3}, "fit")
    if status:
        run.update(**status)
    return run


def test_the_config_of_a_new_run_is_a_recipe(tmp_path):
    run = _run(tmp_path / "runs", "São Paulo / 1")
    assert run.config == {"data": "x", "epochs": 3}
    assert run.status.state == "queued"
    assert run.folder.parent == tmp_path / "runs"
    assert run.folder.name.endswith("-Sao-Paulo-1")
    assert Run.open(run.folder).status.task == "fit"


def test_a_run_is_called_as_it_was_typed_and_a_second_one_gets_a_number(tmp_path):
    runs = [_run(tmp_path, name) for name in ("Étude  1", "ctx", "CTX", "ctx", "東京", "")]
    titles = [run.title for run in runs]
    assert titles == ["Étude 1", "ctx", "CTX 2", "ctx 3", "東京", "run"]
    # older versions have no title in status.json
    old = _run(tmp_path, "old")
    old.folder.rename(tmp_path / "20261127-212855-ctx-plain")
    old = Run(tmp_path / "20261127-212855-ctx-plain")
    old.update(title="")
    assert old.title == "ctx-plain"
    assert _run(tmp_path, "ctx-plain").title == "ctx-plain 2"


def test_a_chosen_folder_cannot_be_used_twice(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    run = Run.create(tmp_path, "x", {}, "fit", folder)
    assert run.folder == folder
    with pytest.raises(JobError, match="--resume"):
        Run.create(tmp_path, "x", {}, "fit", folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").touch()
    with pytest.raises(JobError, match="not empty"):
        Run.create(tmp_path, "x", {}, "fit", tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "other"]


def test_runs_started_in_the_same_second_have_different_folders(tmp_path):
    assert len({_run(tmp_path).folder for _ in range(3)}) == 3


def test_runs_are_listed_newest_first_without_other_folders(tmp_path):
    first, second = _run(tmp_path, "a"), _run(tmp_path, "b")
    first.update(created_at=5.0)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "status.json").write_text("{")
    assert [run.name for run in list_runs(tmp_path)] == [second.name, first.name]
    assert list_runs(tmp_path / "nowhere") == []


def test_opening_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(JobError, match="nothing"):
        Run.open(tmp_path / "nothing")


def test_a_run_whose_process_died_has_failed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    run = _run(tmp_path, state="running", pid=child.pid, host=this_process()["host"])
    assert run.status.state == "failed"
    assert run.status.error == Run.ended_unexpectedly
    assert run.recorded_status.state == "running"


def test_a_zombie_does_not_count_as_running(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    run = _run(tmp_path, state="running", pid=child.pid, host=this_process()["host"])
    deadline = time.monotonic() + 60
    while run.status.state == "running" and time.monotonic() < deadline:
        time.sleep(0.05)  # never waited for: it becomes a zombie
    assert run.status.state == "failed"
    child.wait()


def test_a_process_with_a_reused_id_does_not_count_as_running(tmp_path):
    run = _run(tmp_path, state="running", **this_process())
    assert run.status.state == "running"
    run.update(pid_started_at=12345.0)
    assert run.status.state == "failed"


def test_a_run_on_another_computer_counts_as_running(tmp_path):
    run = _run(tmp_path, state="running", pid=1, host="another-computer")
    assert run.status.state == "running"


def test_metrics_that_a_resumed_run_writes_again_are_removed(tmp_path):
    run = _run(tmp_path)
    for step in (10, 20, 30):
        run.log_metrics({"step": step, "loss": 1 / step})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    assert [row["step"] for row in run.metrics()] == [10, 20, 30]
    run.forget_metrics_after(20)
    run.log_metrics({"step": 30, "loss": 5.0})
    assert [row["step"] for row in run.metrics()] == [10, 20, 30]


def test_status_is_never_half_written(tmp_path):
    run = _run(tmp_path, state="running", **this_process())
    stop = threading.Event()

    def write():
        while not stop.is_set():
            run.update(phase="x" * 5000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert run.recorded_status.task == "fit"
    finally:
        stop.set()
        writer.join()


def test_execute_records_how_the_run_ended(tmp_path):
    run = _run(tmp_path)
    seen = []

    def work(session):
        seen.append(run.status.state)
        session.log("hello")
        session.metrics(1, {"loss": 2.0})
        session.progress("training", 0.5, now=True)

    assert execute(run, work) == 0
    assert seen == ["running"]
    assert run.status.state == "finished"
    assert run.status.progress == 1.0
    assert "hello" in run.log_tail()[-1]
    assert any((run.folder / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("error", "plain"),
    [
        (DatasetError("train_mini.csv: column 'latitude', row 7: 'abc' is not a number"), True),
        (TrainingError("too few photos"), True),
        (BackboneError("no backbone 'x'"), True),
        (OSError(28, "No space left on device", "bank.npy"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (ValueError("operands could not be broadcast together"), False),
        (KeyError("latitude"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_one_sentence_and_only_a_fault_of_the_program_has_a_traceback(
    tmp_path, capsys, error, plain
):
    run = _run(tmp_path)

    def work(session):
        raise error

    assert execute(run, work) == 1
    assert run.status.state == "failed"
    assert run.status.error == describe(error)
    assert any("Traceback" in line for line in run.log_tail(50)) is not plain
    shown = capsys.readouterr().err
    assert describe(error) in shown
    assert "Traceback" not in shown
    assert shown.count("\n") == 1


def test_a_full_disk_is_recorded_in_the_status(tmp_path, monkeypatch):
    run = _run(tmp_path)
    real = os.replace
    full = {"on": False}

    def replace(source, target):
        if full["on"] and (run.folder / ".reserve").exists():
            raise OSError(28, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("pathlib.Path.replace", lambda self, target: replace(self, target))

    def work(session):
        full["on"] = True
        raise OSError(28, "No space left on device", "checkpoint/model.safetensors")

    assert execute(run, work) == 1
    assert run.status.state == "failed"
    assert "disk is full" in run.status.error
    assert "model.safetensors" in run.status.error


def test_a_stop_request_ends_the_run_cleanly_and_does_not_affect_the_next_start(tmp_path):
    run = _run(tmp_path)

    def work(session):
        run.request_stop()
        session.raise_if_stopped()
        raise AssertionError("went on")

    assert execute(run, work) == 0
    assert run.status.state == "stopped"
    assert execute(run, lambda session: session.raise_if_stopped()) == 0
    assert run.status.state == "finished"


def test_sigterm_is_a_stop_request(tmp_path):
    run = _run(tmp_path)

    def work(session):
        assert not session.stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert session.stop_requested()
        raise StopRequestedError

    before = signal.getsignal(signal.SIGTERM)
    assert execute(run, work) == 0
    assert run.status.state == "stopped"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_running_run_cannot_be_started_again(tmp_path):
    run = _run(tmp_path, state="running", **this_process())
    with pytest.raises(JobError, match="running already"):
        execute(run, lambda session: None)


def test_the_time_left_is_that_of_the_phase(tmp_path, monkeypatch):
    run = _run(tmp_path)
    clock = [0.0]
    monkeypatch.setattr("geoclip_core.training.session.time.monotonic", lambda: clock[0])
    session = RunSession(run)
    session.progress("embedding", 0.0)
    clock[0] = 1000.0
    session.progress("training, epoch 1", 0.5, until=0.9)
    assert run.status.eta_seconds is None
    clock[0] = 1010.0
    session.progress("training, epoch 1", 0.6, until=0.9)
    assert run.status.eta_seconds == pytest.approx(30)


def test_errors_are_described_in_one_line():
    assert describe(ValueError("a\n  b")) == "a b"
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert "smaller batch" in describe(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert json.dumps(describe(OSError(28, "No space left on device")))
