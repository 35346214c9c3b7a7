"""Tests of the jobs of the Dataset page: what they leave on disk, and how they end."""

import time

import pytest

from geoclip_core.demo.dataset import write_demo
from geoclip_core.jobs import Work
from ui.dataset.make import dataset_jobs, start


def _wait(root, state, seconds=60):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        job = dataset_jobs(root)[0]
        if job.status.state in state:
            return job
        time.sleep(0.1)
    pytest.fail(f"still {job.status}: {job.work.console_tail()}")


@pytest.mark.slow
def test_a_job_runs_reports_and_is_dismissed(tmp_path):
    target = tmp_path / "demo"
    arguments = ["--rows", "40", "--metadata-only", "--output", str(target)]
    start(tmp_path, "demo-data", arguments, "Drawing", target)
    job = _wait(tmp_path, ("finished", "failed"))
    assert (job.status.state, job.command, job.title) == ("finished", "demo-data", "Drawing")
    assert job.dataset == target
    assert "40 synthetic rows" in job.status.message
    assert (target / "train_mini.csv").is_file()
    job.dismiss()
    assert dataset_jobs(tmp_path) == []


@pytest.mark.slow
def test_a_failed_job_has_the_reason_as_its_message(tmp_path):
    start(tmp_path, "doctor", [str(tmp_path / "gone")], "Checking", tmp_path / "gone")
    job = _wait(tmp_path, ("finished", "failed"))
    assert job.status.state == "failed"
    assert "no such folder" in job.status.message


def test_the_console_shows_why_a_wrong_command_line_failed(tmp_path):
    start(tmp_path, "doctor", ["--nonsense", "x"], "Checking", tmp_path)
    job = _wait(tmp_path, ("finished", "failed"))
    assert job.status.state == "failed"
    assert "there is no option --nonsense" in "\n".join(job.work.console_tail())


@pytest.mark.slow
def test_stopping_leaves_what_was_there(tmp_path):
    target = write_demo(tmp_path / "demo", 30, metadata_only=True)
    before = (target / "train_mini.csv").read_bytes()
    arguments = ["--rows", "600", "--output", str(target)]
    start(tmp_path, "demo-data", arguments, "Drawing", target)
    limit = time.monotonic() + 60
    while not dataset_jobs(tmp_path)[0].status.done and time.monotonic() < limit:
        time.sleep(0.1)
    # What a worker process wrote while the command was cleaning up.
    (tmp_path / ".demo.99999999-1.part" / "train_images").mkdir(parents=True)
    dataset_jobs(tmp_path)[0].stop()
    job = dataset_jobs(tmp_path)[0]
    assert job.status.state == "stopped"
    assert 0 < job.status.done < job.status.total == 600
    assert (target / "train_mini.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".jobs", "demo"]
    # A job that has ended can be stopped again without harm.
    job.stop()


def test_a_job_whose_process_is_gone_has_failed(tmp_path):
    about = {"command": "doctor", "title": "T", "dataset": "x"}
    work = Work.create(tmp_path / ".jobs" / "1-doctor", about)
    # No process has this number: Linux stops at 4,194,304.
    work.update(state="running", pid=99999999, done=3, total=9)
    (work.folder / "console.txt").write_text("first\r50%\rlast words\n")
    job = dataset_jobs(tmp_path)[0]
    assert (job.status.state, job.status.done, job.status.total) == ("failed", 3, 9)
    assert job.work.console_tail() == ["last words"]


def test_damaged_records_are_left_out(tmp_path):
    for number, text in enumerate(["", "[]", "{}", '{"state": "running"}']):
        folder = tmp_path / ".jobs" / str(number)
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(text)
    assert dataset_jobs(tmp_path) == []
    assert dataset_jobs(tmp_path / "nowhere") == []


@pytest.mark.slow
def test_starting_the_same_job_again_replaces_its_old_result(tmp_path):
    for _ in range(2):
        start(tmp_path, "doctor", [str(tmp_path / "gone")], "Checking", tmp_path / "gone")
        _wait(tmp_path, ("failed",))
    assert len(dataset_jobs(tmp_path)) == 1
