"""Small trainings for tests: options, in this process or another."""

import os
import subprocess
import sys
from pathlib import Path

from geoclip_core.training.distributed import build_accelerator
from geoclip_core.training.fit import FitRun, fit
from geoclip_core.training.options import FitOptions, PretrainOptions, from_mapping
from geoclip_core.training.pretrain import PretrainRun, pretrain
from geoclip_core.training.runs import Run
from geoclip_core.training.session import execute
from train.training import lasting_config

ROOT = Path(__file__).resolve().parents[2]
QUICK = {
    "epochs": 4,
    "batch_size": 32,
    "device": "cpu",
    "log_every": 1,
    "geocells.cells": 12,
    "learning_rate": 0.01,
    "dropout": 0.1,
}
PRETRAIN_QUICK = {
    "epochs": 2,
    "batch_size": 32,
    "device": "cpu",
    "log_every": 1,
    "width": 16,
}


def run_fit(folder: Path, data: Path, backbone: Path | str, **options) -> Run:
    """Fit in this process."""
    values = QUICK | {"cache_dir": folder.parent / "cache"} | options
    if values.get("coordinate_head", "geocells") != "geocells":
        values.pop("geocells.cells")
    chosen = from_mapping(FitOptions, {"data": data, "backbone": str(backbone), **values}, "test")
    return _run(folder, chosen, "fit", FitRun, fit)


def run_pretrain(folder: Path, data: Path, backbone: Path | str, **options) -> Run:
    """Pretrain in this process."""
    values = PRETRAIN_QUICK | {"cache_dir": folder.parent / "cache"} | options
    values |= {"data": data, "backbone": str(backbone)}
    chosen = from_mapping(PretrainOptions, values, "test")
    return _run(folder, chosen, "pretrain", PretrainRun, pretrain)


def _run(folder, options, task, kind, loop):
    run = Run.create(folder.parent, "test", lasting_config(options), task, folder)
    return work(run, options, kind, loop)


def work(run, options, kind, loop):
    accelerator = build_accelerator(options)
    execute(run, lambda s: loop(kind(options, s, accelerator, run.folder, run.name)))
    return run


def command(*arguments: object, launcher: tuple[str, ...] = ()) -> list[str]:
    """Return the command line of a training in a process of its own."""
    start = [sys.executable, "-m", *(launcher or ("train",))]
    if launcher:
        start += ["-m", "train"]
    return [*start, *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread, found modules, no network."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def call(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run a command of training to its end."""
    return subprocess.run(
        command(*arguments, launcher=launcher),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
    )
