"""Detached jobs: status, process, end and queue."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from geoclip_core import jobs
from geoclip_core.jobs import (
    CONSOLE,
    JobError,
    StatusWriter,
    Work,
    WorkStatus,
    read_status,
    tail,
    this_process,
    waits_for,
)

# A module whose first argument says what it does.
MODULE = "tests.quick_work"


@pytest.fixture
def work(tmp_path):
    job = Work.create(tmp_path / "jobs" / "1-work", {"title": "Working"})
    yield job
    job.kill()


def wait(job, *states, seconds=120):
    limit = time.monotonic() + seconds
    while (status := job.status).state not in states:
        assert time.monotonic() < limit, (status, job.console_tail())
        time.sleep(0.02)
    return status


def launch(job, *arguments, **options):
    job.launch(MODULE, [*arguments, "--status", str(job.status_path)], **options)


def test_a_job_runs_in_its_own_session_and_keeps_its_about(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the process finds its module from any folder
    (work.folder / CONSOLE).write_text("before\n")
    launch(work, "count", "100000")
    status = wait(work, "running")
    assert status.about == {"title": "Working"}
    assert os.getpgid(status.pid) != os.getpgid(0)
    assert os.getpriority(os.PRIO_PROCESS, status.pid) == max(10, os.nice(0))  # after the pages
    assert work.console_tail() == ["before", "begun"]
    work.kill("enough")
    status = work.status
    assert (status.state, status.error, status.pid) == ("stopped", "enough", None)
    assert status.about == {"title": "Working"}


def test_a_finished_job_has_its_result(work):
    launch(work, "count", "3")
    status = wait(work, "finished")
    assert (status.done, status.total, status.unit) == (3, 3, "steps")
    assert status.message == "counted to 3"
    assert status.share == 1.0


def test_a_failed_job_has_its_reason(work):
    launch(work, "fail", "the photo 7.jpg is broken")
    status = wait(work, "failed")
    assert status.error == status.message == "the photo 7.jpg is broken"
    limit = time.monotonic() + 60  # the traceback is printed after the status is written
    while "Traceback" not in "\n".join(work.console_tail(30)):
        assert time.monotonic() < limit, work.console_tail(30)
        time.sleep(0.02)


def test_a_job_that_cannot_begin_fails_with_the_reason_in_its_console(work):
    launch(work, "nonsense")
    assert "could not begin" in wait(work, "failed").error
    assert "no action nonsense" in work.console_tail()[-1]


def test_a_job_with_nothing_to_do_finishes(work):
    launch(work, "nothing")
    assert wait(work, "finished").error is None


def test_a_killed_job_has_ended_unexpectedly(work):
    launch(work, "count", "100000")
    psutil.Process(wait(work, "running").pid).kill()
    assert "ended unexpectedly" in wait(work, "failed").error
    assert work.recorded_status.state == "running"


def test_an_interrupted_job_cleans_up_and_stops(work):
    launch(work, "count", "100000")
    wait(work, "running")
    work.interrupt()
    assert work.status.state == "stopped"
    assert work.console_tail()[-1] == "cleaned up"


@pytest.mark.slow
def test_a_job_that_ignores_the_interrupt_is_killed_with_its_children(work):
    launch(work, "stubborn")
    wait(work, "running")
    helper = psutil.Process(int(work.console_tail()[-1]))
    work.kill(after_seconds=0.5)
    assert work.status.state == "stopped"
    assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_may_not_be_the_jobs_is_not_ended(work):
    for process in (this_process(), {"pid": 1, "pid_started_at": None}):
        work.update(state="running", **process)
        with pytest.raises(JobError, match="may not belong to this job"):
            work.kill()
    mine = this_process()
    work.update(state="running", **{**mine, "pid_started_at": mine["pid_started_at"] - 900})
    assert work.status.state == "failed"
    work.kill()
    assert work.status.state == "stopped"


def test_a_job_on_another_computer_counts_as_running_and_cannot_be_ended(work):
    work.update(state="running", pid=1, host="another-computer")
    assert work.status.state == "running"
    with pytest.raises(JobError, match="another-computer"):
        work.kill()
    work.update(state="stopped")


def test_a_zombie_does_not_count_as_running(work):
    child = subprocess.Popen([sys.executable, "-c", ""])
    work.update(state="running", pid=child.pid)
    wait(work, "failed", seconds=60)  # nobody has waited for the child: it is a zombie
    child.wait()


@pytest.mark.slow
def test_jobs_in_turn_begin_in_the_order_of_their_launch(tmp_path):
    first, *rest = (Work.create(tmp_path / name, {}) for name in ("first", "z", "a"))
    launch(first, "count", "100000", in_turn=True)
    wait(first, "running")
    for job in rest:
        launch(job, "count", "1", in_turn=True)
    assert [waits_for(job.folder) for job in rest] == [first.folder, first.folder]
    assert [job.status.state for job in rest] == ["queued", "queued"]
    first.kill()
    began = [wait(job, "finished").started_at for job in rest]
    assert began == sorted(began)


def test_a_waiting_job_can_be_withdrawn(tmp_path):
    first, second = (Work.create(tmp_path / name, {}) for name in ("first", "second"))
    first.update(state="running", **this_process())
    launch(second, "count", "1", in_turn=True)
    assert waits_for(second.folder) == first.folder
    second.interrupt()
    assert second.status.state == "stopped"


def test_no_job_waits_for_one_without_a_process(tmp_path):
    for name in ("first", "second"):
        Work.create(tmp_path / name, {})
    assert waits_for(tmp_path / "second") is None


def test_an_old_process_of_a_relaunched_job_does_nothing(work, capsys):
    work.update(state="queued", pid=os.getpid() + 1, pid_started_at=1.0)
    assert jobs.main([str(work.folder), MODULE, "count", "1"]) == 0
    assert capsys.readouterr().out == ""


def test_an_update_keeps_unknown_keys(work):
    content = json.loads(work.status_path.read_text()) | {"later": [1]}
    work.status_path.write_text(json.dumps(content))
    work.update(done=4)
    assert json.loads(work.status_path.read_text())["later"] == [1]
    assert work.status.done == 4


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "odd"}'])
def test_a_damaged_status_is_an_error_that_names_the_file(work, text):
    whole = work.status_path.read_text()
    work.status_path.write_text(text)
    with pytest.raises(JobError, match=r"status\.json"):
        _ = work.status
    work.status_path.write_text(whole)


def test_a_writer_replaces_a_damaged_status(tmp_path):
    path = tmp_path / "status.json"
    path.write_text("[]")
    with StatusWriter(path, "reading", "photos") as writer:
        writer.update(1, 0, "weights")
        status = read_status(path, WorkStatus)
        assert (status.state, status.title, status.done, status.share) == (
            *("running", "weights", 1, 0.0),
        )
        assert status.pid == os.getpid()


def test_a_status_that_cannot_be_written_is_reported_once(tmp_path, capsys):
    (tmp_path / "folder").write_text("a file")
    with StatusWriter(tmp_path / "folder" / "status.json", "reading", "photos") as writer:
        writer.update(1, 2, "weights")
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_the_tail_shows_lines_as_a_terminal_would(tmp_path):
    console = tmp_path / "console.txt"
    console.write_bytes("one\r\n1 %\r50 %\r100 %\ntw\xf6\n".encode("latin-1"))
    assert tail(console, 2) == ["100 %", "tw\ufffd"]
    assert tail(tmp_path / "missing") == []
