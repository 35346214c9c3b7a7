import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from geoclip_core.jobs import console_tail
from geoclip_core.training.runs import DIED, Run, RunError, list_runs, this_process
from tests.ui import slow_training
from ui.training import process, queue

SLOW = (sys.executable, "-m", slow_training.__name__)


def start(root, name="test", **options):
    """A training that goes on until it is stopped, unless it is given a number of steps."""
    return process.start(root, "fit", {"seconds": 0.02, **options}, name, command=SLOW)


def wait(run, *states, seconds=120.0):
    limit = time.monotonic() + seconds
    while (status := run.status).state not in states:
        if time.monotonic() > limit:
            printed = console_tail(run.folder / process.CONSOLE)
            raise AssertionError(f"{status} after {seconds} s; {printed}")
        time.sleep(0.02)
    return status


@pytest.fixture
def root(tmp_path):
    yield tmp_path / "runs"
    for run in list_runs(tmp_path / "runs"):
        if run.status.state in ("running", "queued"):
            process.end_now(run)


def test_runs_apart_from_this_process_until_it_is_done(root):
    run = start(root, steps=150)
    wait(run, "running")
    child = psutil.Process(run.status.pid)
    assert os.getpgid(child.pid) != os.getpgid(0)
    status = wait(run, "finished")
    assert (status.progress, status.error) == (1.0, None)
    assert [row["step"] for row in run.metrics()] == list(range(1, 151))


def test_stops_after_its_step_and_goes_on_where_it_was(root):
    run = start(root, steps=200)
    wait(run, "running")
    process.stop(run)
    wait(run, "stopped")
    done = len(run.metrics())
    assert done < 200
    process.resume(run, SLOW)
    wait(run, "finished")
    assert [row["step"] for row in run.metrics()] == list(range(1, 201))


def test_a_second_one_waits_for_the_first(root):
    first, second = start(root), start(root)
    wait(first, "running")
    third = start(root, steps=1)
    assert second.status.state == third.status.state == "queued"
    assert queue.goes_first(second).name == first.name
    process.stop(second)
    assert second.status.state == "stopped"
    process.stop(first)
    wait(third, "finished")
    assert first.status.state == "stopped"
    assert second.metrics() == []
    process.delete(root, second)
    assert {run.name for run in list_runs(root)} == {first.name, third.name}


def test_the_queue_keeps_its_order(root):
    running = start(root)
    wait(running, "running")
    waiting = [start(root, name, steps=1) for name in ("z", "a", "m")]
    process.stop(running)
    for run in waiting:
        wait(run, "finished")
    began = [run.status.started_at for run in waiting]
    assert began == sorted(began)


def test_killed_is_failed_and_can_go_on(root):
    run = start(root, steps=200)
    wait(run, "running")
    psutil.Process(run.status.pid).kill()
    assert wait(run, "failed").error == DIED
    process.resume(run, SLOW)
    assert wait(run, "finished").error is None


def test_a_failure_keeps_its_sentence(root):
    run = start(root, crash="late")
    assert wait(run, "failed").error == "the photo 7.jpg is broken"
    assert any("Traceback" in line for line in run.log_tail(30))


def test_a_death_before_the_first_log_line_leaves_its_last_words(root):
    run = start(root, crash="early")
    wait(run, "failed")
    assert "no module named nothing" in "\n".join(console_tail(run.folder / process.CONSOLE))
    assert run.log_tail() == []


def test_end_now_is_immediate_and_says_so(root):
    run = start(root, steps=3, seconds=60)
    status = wait(run, "running")
    process.end_now(run)
    assert run.status.state == "stopped"
    assert "at once" in run.status.error
    assert not psutil.pid_exists(status.pid) or (
        psutil.Process(status.pid).status() == psutil.STATUS_ZOMBIE
    )


def test_what_cannot_be_continued(root):
    run = start(root, steps=1)
    wait(run, "finished")
    with pytest.raises(RunError, match="finished: there is nothing to continue"):
        process.resume(run, SLOW)


def test_a_process_that_cannot_be_started_is_a_failed_run(tmp_path):
    with pytest.raises(RunError, match="cannot be started"):
        process.start(tmp_path, "fit", {}, "x", command=(str(tmp_path / "nothing"),))
    (run,) = list_runs(tmp_path)
    assert run.status.state == "failed"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="cannot be written"):
        process.start(tmp_path / "runs", "fit", {}, "x")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("São Tomé", "Sao-Tome"),
        ("  a  b ", "a-b"),
        ("...", ""),
        ("東京", ""),
        ("-rf *", "rf"),
        ("a\0b\nc", "a-b-c"),
        ("x" * 500, "x" * 60),
        ("C:\\Windows", "C-Windows"),
        ("a..b", "a.b"),
    ],
)
def test_names_are_safe(text, name):
    assert process.safe_name(text) == name


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
    process.delete(root, run)
    assert [r.name for r in list_runs(root)] == [other.name]
    assert [path.name for path in root.iterdir()] == [other.name]
    assert (precious / "photo.jpg").read_text() == "mine"


def test_deleting_a_linked_run_removes_the_link_alone(tmp_path):
    root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    run = made(elsewhere)
    root.mkdir()
    (root / "linked").symlink_to(run.folder)
    (linked,) = list_runs(root)
    process.delete(root, linked)
    assert list_runs(root) == []
    assert run.status.state == "finished"


@pytest.mark.parametrize("path", ["..", ".", "run/..", "../elsewhere/run", "run/checkpoint"])
def test_delete_never_leaves_the_runs_folder(tmp_path, path):
    root = tmp_path / "runs"
    made(root)
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    with pytest.raises(RunError):
        process.delete(root, Run(root / path))
    assert outside.is_dir()
    assert len(list_runs(root)) == 1


def test_a_running_run_is_not_deleted(tmp_path):
    run = made(tmp_path, state="running", **this_process())
    with pytest.raises(RunError, match="stop it before"):
        process.delete(tmp_path, run)
    assert run.folder.is_dir()


def test_a_number_that_another_process_got_is_not_killed(tmp_path):
    me = this_process()
    run = made(tmp_path, state="running", **{**me, "pid_started_at": me["pid_started_at"] - 900})
    assert run.status.state == "failed"
    process.end_now(run)
    process.stop(run)


@pytest.mark.parametrize("changes", [this_process(), {"pid": 1}])
def test_a_process_that_may_be_another_is_not_killed(tmp_path, changes):
    run = made(tmp_path, state="running", **changes)
    with pytest.raises(RunError, match="not known to be this training"):
        process.end_now(run)


def test_a_run_of_another_computer_is_neither_ended_nor_waited_for(tmp_path):
    far = made(tmp_path, state="running", pid=1, host="another-computer")
    with pytest.raises(RunError, match="another-computer"):
        process.end_now(far)
    near = made(tmp_path, "near", state="queued", **this_process())
    assert queue.goes_first(near) is None


def test_the_console_shows_a_progress_bar_once(tmp_path):
    run = made(tmp_path)
    (run.folder / process.CONSOLE).write_bytes(b"a\n 1%|\r 50%|\r100%|\nend")
    assert console_tail(run.folder / process.CONSOLE) == ["a", "100%|", "end"]
