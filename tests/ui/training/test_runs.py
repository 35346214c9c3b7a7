"""Starting, watching, stopping, resuming and deleting trainings."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from geoclip_core.jobs import JobError, this_process, waits_for
from geoclip_core.training.runs import Run, list_runs
from tests.ui import slow_training
from ui.training import runs


@pytest.fixture(autouse=True)
def quick_training(monkeypatch):
    monkeypatch.setattr(runs, "TRAIN", slow_training.__name__)


def start(root, name="test", **options):
    """A training that goes on until it is stopped, unless it is given a number of steps."""
    return runs.start(root, "fit", {"seconds": 0.02, **options}, name)


def wait(run, *states, seconds=120.0):
    limit = time.monotonic() + seconds
    while (status := run.status).state not in states:
        if time.monotonic() > limit:
            printed = run.console_tail()
            raise AssertionError(f"{status} after {seconds} s; {printed}")
        time.sleep(0.02)
    return status


@pytest.fixture
def root(tmp_path):
    yield tmp_path / "runs"
    for run in list_runs(tmp_path / "runs"):
        if run.status.state in ("running", "queued"):
            runs.kill(run)


@pytest.mark.slow
def test_runs_apart_from_this_process_until_it_is_done(root):
    run = start(root, steps=150)
    wait(run, "running")
    child = psutil.Process(run.status.pid)
    assert os.getpgid(child.pid) != os.getpgid(0)
    status = wait(run, "finished")
    assert (status.progress, status.error) == (1.0, None)
    assert [row["step"] for row in run.metrics()] == list(range(1, 151))


@pytest.mark.slow
def test_stops_after_its_step_and_goes_on_where_it_was(root):
    run = start(root, steps=200)
    wait(run, "running")
    runs.stop(run)
    wait(run, "stopped")
    done = len(run.metrics())
    assert done < 200
    runs.resume(run)
    wait(run, "finished")
    assert [row["step"] for row in run.metrics()] == list(range(1, 201))


def test_a_second_one_waits_for_the_first(root):
    first, second = start(root), start(root)
    wait(first, "running")
    third = start(root, steps=1)
    assert second.status.state == third.status.state == "queued"
    assert waits_for(second.folder) == first.folder
    runs.stop(second)
    assert second.status.state == "stopped"
    runs.stop(first)
    wait(third, "finished")
    assert first.status.state == "stopped"
    assert second.metrics() == []
    runs.delete(root, second)
    assert {run.name for run in list_runs(root)} == {first.name, third.name}


@pytest.mark.slow
def test_the_queue_keeps_its_order(root):
    running = start(root)
    wait(running, "running")
    waiting = [start(root, name, steps=1) for name in ("z", "a", "m")]
    runs.stop(running)
    for run in waiting:
        wait(run, "finished")
    began = [run.status.started_at for run in waiting]
    assert began == sorted(began)


@pytest.mark.slow
def test_killed_is_failed_and_can_go_on(root):
    run = start(root, steps=200)
    wait(run, "running")
    psutil.Process(run.status.pid).kill()
    assert wait(run, "failed").error == Run.ended_unexpectedly
    runs.resume(run)
    assert wait(run, "finished").error is None


def test_a_failure_keeps_its_sentence(root):
    run = start(root, crash="late")
    assert wait(run, "failed").error == "the photo 7.jpg is broken"
    assert any("Traceback" in line for line in run.log_tail(30))


def test_a_death_before_the_first_log_line_leaves_its_last_words(root):
    run = start(root, crash="early")
    wait(run, "failed")
    assert "no module named nothing" in "\n".join(run.console_tail())
    assert run.log_tail() == []


def test_end_now_is_immediate_and_says_so(root):
    run = start(root, steps=3, seconds=60)
    status = wait(run, "running")
    runs.kill(run)
    assert run.status.state == "stopped"
    assert "at once" in run.status.error
    assert not psutil.pid_exists(status.pid) or (
        psutil.Process(status.pid).status() == psutil.STATUS_ZOMBIE
    )


def test_what_cannot_be_continued(root):
    run = start(root, steps=1)
    wait(run, "finished")
    with pytest.raises(JobError, match="finished: there is nothing to continue"):
        runs.resume(run)


def test_a_process_that_cannot_be_started_is_a_failed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(JobError, match="cannot be started"):
        runs.start(tmp_path, "fit", {}, "x")
    (run,) = list_runs(tmp_path)
    assert run.status.state == "failed"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(JobError, match="cannot be written"):
        runs.start(tmp_path / "runs", "fit", {}, "x")


@pytest.mark.parametrize("name", ["../../../outside", "東京", "x" * 5000, "/abs", "."])
def test_hostile_names_stay_in_the_runs_folder(root, name):
    run = start(root, name, steps=1)
    assert run.folder.resolve().parent == root.resolve()
    wait(run, "finished")


def made(root: Path, name="run", state="finished", **changes) -> Run:
    run = Run.create(root, name, {"data": "x"}, "fit")
    run.update(state=state, **changes)
    return run


def test_delete_removes_the_folder_alone(tmp_path):
    root = tmp_path / "runs"
    run, other = made(root), made(root, "other")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo.jpg").write_text("mine")
    (run.folder / "data").symlink_to(precious)
    runs.delete(root, run)
    assert [r.name for r in list_runs(root)] == [other.name]
    assert [path.name for path in root.iterdir()] == [other.name]
    assert (precious / "photo.jpg").read_text() == "mine"


def test_deleting_a_linked_run_removes_the_link_alone(tmp_path):
    root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    run = made(elsewhere)
    root.mkdir()
    (root / "linked").symlink_to(run.folder)
    (linked,) = list_runs(root)
    runs.delete(root, linked)
    assert list_runs(root) == []
    assert run.status.state == "finished"


@pytest.mark.parametrize("path", ["..", ".", "run/..", "../elsewhere/run", "run/checkpoint"])
def test_delete_never_leaves_the_runs_folder(tmp_path, path):
    root = tmp_path / "runs"
    made(root)
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    with pytest.raises(JobError):
        runs.delete(root, Run(root / path))
    assert outside.is_dir()
    assert len(list_runs(root)) == 1


def test_a_running_run_is_not_deleted(tmp_path):
    run = made(tmp_path, state="running", **this_process())
    with pytest.raises(JobError, match="stop it before"):
        runs.delete(tmp_path, run)
    assert run.folder.is_dir()


def test_a_number_that_another_process_got_is_not_killed(tmp_path):
    me = this_process()
    run = made(tmp_path, state="running", **{**me, "pid_started_at": me["pid_started_at"] - 900})
    assert run.status.state == "failed"
    runs.kill(run)
    runs.stop(run)


@pytest.mark.parametrize("changes", [this_process(), {"pid": 1}])
def test_a_process_that_may_be_another_is_not_killed(tmp_path, changes):
    run = made(tmp_path, state="running", **changes)
    with pytest.raises(JobError, match="may not belong to this job"):
        runs.kill(run)


def test_a_run_of_another_computer_is_neither_ended_nor_waited_for(tmp_path):
    far = made(tmp_path, state="running", pid=1, host="another-computer")
    with pytest.raises(JobError, match="another-computer"):
        runs.kill(far)
    near = made(tmp_path, "near", state="queued", **this_process())
    assert waits_for(near.folder) is None
