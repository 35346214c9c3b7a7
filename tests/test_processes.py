"""Processes that outlive the app are started, known again and listened to."""

import os
import sys
import time

import psutil
import pytest

from geoclip_core.processes import console_tail, is_running, start_detached


def wait_until(condition, seconds=120):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.05)
    return condition()


def test_a_process_finds_the_project_and_is_known_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = tmp_path / "console.txt"
    console.write_text("before\n")
    script = "import train.__main__, time; print('found', flush=True); time.sleep(600)"
    process = start_detached([sys.executable, "-c", script], console)
    try:
        assert wait_until(lambda: console_tail(console) == ["before", "found"])
        assert is_running(**{"pid": process["pid"], "started_at": process["pid_started_at"]})
        assert os.getpgid(process["pid"]) != os.getpgid(0)
    finally:
        psutil.Process(process["pid"]).kill()
    assert wait_until(lambda: not is_running(process["pid"]))


def test_a_number_that_was_given_to_another_process_is_not_running():
    began = psutil.Process().create_time()
    assert is_running(os.getpid(), began)
    assert not is_running(os.getpid(), began - 60)


@pytest.mark.parametrize("pid", [None, 0, -1, "12", 2**31])
def test_what_is_no_process_is_not_running(pid):
    assert not is_running(pid)


def test_the_tail_shows_what_a_terminal_would(tmp_path):
    console = tmp_path / "console.txt"
    console.write_bytes("one\r\n10 %\r100 %\ntw\xf6\n".encode("latin-1"))
    assert console_tail(console, 2) == ["100 %", "tw\ufffd"]
    assert console_tail(tmp_path / "missing") == []
