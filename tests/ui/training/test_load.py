import os
import sys

import pytest

from geoclip_core.training.runs import RunStatus, this_process
from ui.training import load


@pytest.fixture(autouse=True)
def fresh():
    load.gpu_load.clear()
    yield
    load.gpu_load.clear()


def test_this_computer(tmp_path):
    found = load.system_load(tmp_path / "not" / "there")
    assert 0 <= found.cpu <= 1
    assert 0 < found.memory_used < found.memory_total
    assert found.disk_free > 0


def test_this_process_and_one_that_is_gone():
    mine = load.process_load(RunStatus("running", "fit", **this_process()))
    assert mine.memory > 10_000_000
    assert load.process_load(RunStatus("running", "fit", pid=None)) is None
    gone = RunStatus("running", "fit", pid=os.getpid(), pid_started_at=1.0)
    assert load.process_load(gone) is None


def tool(folder, script):
    path = folder / "nvidia-smi"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(0o755)


def test_graphics_cards(tmp_path, monkeypatch):
    lines = r"NVIDIA A100, 87, 1024, 40960\nOld card, [N/A], 10, 2048\nbroken\n"
    tool(tmp_path, f'print("{lines}", end="")')
    monkeypatch.setenv("PATH", str(tmp_path))
    first, second = load.gpu_load()
    assert first == load.GpuLoad("NVIDIA A100", 0.87, 2**30, 40 * 2**30)
    assert second.share is None


@pytest.mark.parametrize("script", ["raise SystemExit(9)", "print('No devices were found')"])
def test_a_driver_that_does_not_answer(tmp_path, monkeypatch, script):
    tool(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load.gpu_load() == []


def test_no_graphics_card(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load.gpu_load() == []
