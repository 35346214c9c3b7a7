"""The check whether a process runs, and the pool of processes."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from geoclip_core.processes import give_back_memory, in_processes, is_running

ROOT = Path(__file__).resolve().parents[1]


def test_a_process_with_a_reused_id_is_not_running():
    began = psutil.Process().create_time()
    assert is_running(os.getpid(), began)
    assert not is_running(os.getpid(), began - 60)


@pytest.mark.parametrize("pid", [None, 0, -1, "12", 2**31])
def test_an_invalid_process_id_is_not_running(pid):
    assert not is_running(pid)


def test_results_of_other_processes_come_in_order():
    assert list(in_processes(abs, range(-5, 0), 2)) == [5, 4, 3, 2, 1]
    pids = set(in_processes(_pid, range(4), 2))
    assert os.getpid() not in pids
    assert sys.modules["__main__"].__name__ == "__main__"


def _pid(_):
    return os.getpid()


def test_closing_drops_items_that_have_not_started():
    started = time.monotonic()
    with contextlib.closing(in_processes(time.sleep, [0.1] * 400, 2)) as results:
        next(results)
    assert time.monotonic() - started < 15


def _die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error():
    with pytest.raises(OSError, match="the system killed a worker process"):
        list(in_processes(_die, range(3), 1))


def test_a_script_without_a_main_guard_is_not_run_twice(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from geoclip_core.processes import in_processes\n"
        "print('main')\n"
        "print(sum(in_processes(abs, [-1, -2, -3], 2)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout.split() == ["main", "6"], done.stderr


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_freed_memory_is_given_back():
    """A block that is still used keeps glibc from giving back what was freed below it."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    size, process = 60_000, psutil.Process()
    blocks = [library.malloc(size) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        library.free(block)
    before = process.memory_info().rss
    assert give_back_memory()
    assert before - process.memory_info().rss > 60_000_000
    library.free(blocks[-1])
