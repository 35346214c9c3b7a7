"""Long work as processes of their own: what they leave on disk, and how they end."""

import json
import time

import pytest

from geoclip_core.demo.dataset import write_demo
from ui.dataset.jobs import dismiss, jobs, log_tail, start, stop


def _wait(root, state, seconds=60):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        job = jobs(root)[0]
        if job.state in state:
            return job
        time.sleep(0.1)
    pytest.fail(f"still {job.state}: {log_tail(job)}")


def test_a_job_runs_reports_and_is_dismissed(tmp_path):
    target = tmp_path / "demo"
    arguments = ["--rows", "40", "--metadata-only", "--output", str(target)]
    start(tmp_path, "demo-data", arguments, "Drawing", target)
    job = _wait(tmp_path, ("finished", "failed"))
    assert (job.state, job.command, job.title) == ("finished", "demo-data", "Drawing")
    assert job.dataset == target
    assert "40 synthetic rows" in job.message
    assert (target / "train_mini.csv").is_file()
    dismiss(job)
    assert jobs(tmp_path) == []


def test_a_job_that_fails_says_why(tmp_path):
    start(tmp_path, "doctor", [str(tmp_path / "gone")], "Checking", tmp_path / "gone")
    job = _wait(tmp_path, ("finished", "failed"))
    assert job.state == "failed"
    assert "no such folder" in job.message


def test_a_wrong_command_line_is_told_from_the_log(tmp_path):
    start(tmp_path, "doctor", ["--nonsense", "x"], "Checking", tmp_path)
    job = _wait(tmp_path, ("finished", "failed"))
    assert job.state == "failed"
    assert "unrecognized arguments: --nonsense" in log_tail(job)


def test_stopping_leaves_what_was_there(tmp_path):
    target = write_demo(tmp_path / "demo", 30, metadata_only=True)
    before = (target / "train_mini.csv").read_bytes()
    arguments = ["--rows", "20000", "--output", str(target)]
    start(tmp_path, "demo-data", arguments, "Drawing", target)
    limit = time.monotonic() + 60
    while not jobs(tmp_path)[0].done and time.monotonic() < limit:
        time.sleep(0.1)
    # what a helper of the command wrote while the command was clearing up
    (tmp_path / ".demo.99999999-1.part" / "train_images").mkdir(parents=True)
    stop(jobs(tmp_path)[0])
    job = jobs(tmp_path)[0]
    assert job.state == "stopped"
    assert 0 < job.done < job.total == 20_000
    assert (target / "train_mini.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".jobs", "demo"]
    # A job that has ended can be stopped again without harm.
    stop(job)


def test_a_job_whose_process_is_gone_has_failed(tmp_path):
    folder = tmp_path / ".jobs" / "1-doctor"
    folder.mkdir(parents=True)
    record = {"command": "doctor", "title": "T", "dataset": "x", "started_at": 1.0}
    # No process has this number: Linux stops at 4,194,304.
    (folder / "job.json").write_text(json.dumps(record | {"pid": 99999999}))
    (folder / "status.json").write_text('{"state": "running", "done": 3, "total": 9}')
    (folder / "log.txt").write_text("first\r50%\rlast words\n")
    job = jobs(tmp_path)[0]
    assert (job.state, job.done, job.total) == ("failed", 3, 9)
    assert log_tail(job).endswith("last words")


def test_damaged_records_are_left_out(tmp_path):
    for number, text in enumerate(["", "[]", "{}", '{"command": 1}']):
        folder = tmp_path / ".jobs" / str(number)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(text)
    assert jobs(tmp_path) == []
    assert jobs(tmp_path / "nowhere") == []


def test_the_same_work_again_replaces_its_old_outcome(tmp_path):
    for _ in range(2):
        start(tmp_path, "doctor", [str(tmp_path / "gone")], "Checking", tmp_path / "gone")
        _wait(tmp_path, ("failed",))
    assert len(jobs(tmp_path)) == 1
