"""Tests."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from geoclip_core.jobs import console_tail, in_processes, is_running, start_detached


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


ROOT = Path(__file__).resolve().parents[1]


def test_results_come_in_order_from_other_processes():
    assert list(in_processes(abs, range(-5, 0), 2)) == [5, 4, 3, 2, 1]
    pids = set(in_processes(_pid, range(4), 2))
    assert os.getpid() not in pids
    assert sys.modules["__main__"].__name__ == "__main__"


def _pid(_):
    return os.getpid()


def test_closing_gives_up_what_has_not_begun():
    started = time.monotonic()
    with contextlib.closing(in_processes(time.sleep, [0.1] * 400, 2)) as results:
        next(results)
    assert time.monotonic() - started < 15


def _die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_told():
    with pytest.raises(OSError, match="ended by the system"):
        list(in_processes(_die, range(3), 1))


def test_a_program_without_a_guard_is_not_run_twice(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from geoclip_core.jobs import in_processes\n"
        "print('main')\n"
        "print(sum(in_processes(abs, [-1, -2, -3], 2)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout.split() == ["main", "6"], done.stderr
