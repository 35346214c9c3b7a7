"""How long a training will take: the same command, timed on a few of the same photos.

``python -m ui.training.estimate FOLDER`` draws a sample of the training photos, runs the command on
it for five epochs with every step logged, and scales what it measured up to the whole dataset.
Nothing is kept but the result.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from geoclip_core.files import write_atomically
from geoclip_core.training.runs import CONFIG, Run, RunError, RunStatus, is_alive, this_process
from ui.training.process import detached
from ui.training.timing import (
    Counts,
    Estimate,
    measure_seconds,
    sample_batch,
    scale_up,
    write_sample,
)

ESTIMATES = ".estimates"
_RESULT, _LOG = "estimate.json", "log.txt"
_SAMPLE, _VAL_FRACTION, _EPOCHS = 256, 0.2, 5
_LIMIT_SECONDS = 240.0


@dataclass(frozen=True)
class Measurement:
    """A measurement that runs, has ended, or has failed."""

    state: str
    """"running", "done" or "failed"."""
    estimate: Estimate | None = None
    error: str = ""


def begin(root: Path, task: str, options: Mapping[str, Any]) -> None:
    """Start measuring in a process of its own.

    Raises:
        RunError: it cannot be started.
    """
    folder = _place(root, task, options)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        recipe = {"command": task, task: dict(options)}
        (folder / CONFIG).write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        began = detached((sys.executable, "-m", "ui.training.estimate"), folder, folder / _LOG)
        if not (folder / _RESULT).exists():
            _write(folder, state="running", **began)
    except OSError as error:
        raise RunError(f"The time cannot be measured in {folder}: {error}") from error


def measurement(root: Path, task: str, options: Mapping[str, Any]) -> Measurement | None:
    """What is known of the time that these options take on their dataset; None if nothing."""
    try:
        text = (_place(root, task, options) / _RESULT).read_text(encoding="utf-8")
        content = json.loads(text)
        if content["state"] == "running":
            process = ("pid", "pid_started_at", "host")
            status = RunStatus("running", task, **{name: content[name] for name in process})
            if is_alive(status):
                return Measurement("running")
            return Measurement("failed", error="The measurement ended without a result.")
        if content["state"] == "done":
            return Measurement("done", Estimate(**content["estimate"]))
        return Measurement("failed", error=str(content["error"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def run(folder: Path) -> Estimate:
    """Measure the training whose options lie in a folder.

    Raises:
        ValueError: the dataset or the options cannot be used; the message is the command's own.
    """
    from geoclip_core.data.dataset import read_dataset

    recipe = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    task, options = recipe["command"], recipe[recipe["command"]]
    source, seed = Path(options["data"]), int(options["seed"])
    whole = _counts(read_dataset(source, val_fraction=options["val_fraction"], seed=seed))
    with tempfile.TemporaryDirectory(prefix="geoclip-estimate-") as work:
        data = Path(work) / "data"
        write_sample(source, data, _SAMPLE, seed)
        sample = _counts(read_dataset(data, val_fraction=_VAL_FRACTION, seed=seed))
        changed = {
            **options,
            "recipe": None,
            "data": str(data),
            "epochs": _EPOCHS,
            "batch_size": sample_batch(sample.train, int(options["batch_size"])),
            "val_fraction": _VAL_FRACTION,
            "patience": 0,
            "log_every": 1,
            "cache_dir": str(Path(work) / "cache"),
        }
        trial = Run.create(work, "trial", changed, task)
        started, statuses = _watch(trial, task)
        ended = trial.recorded_status
        if ended.state == "failed":
            reason = ended.error or "The training failed on a sample of the photos."
            raise ValueError(reason.replace(str(data), str(source)))
        seconds = measure_seconds(started, statuses, trial.metrics(), sample.every)
        if not seconds:
            printed = (folder / _LOG).read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(printed) if line.strip()), "")
            raise ValueError(f"The training did not begin. {last}".strip())
        return scale_up(seconds, sample, whole, options, ended.state == "finished")


def _watch(trial: Run, task: str) -> tuple[float, list[tuple[float, RunStatus]]]:
    """Run the command on the sample. Returns when it began and its statuses over time."""
    started, statuses = time.time(), []
    command = [sys.executable, "-m", "train", task, "--resume", str(trial.folder)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while process.poll() is None and time.time() - started < _LIMIT_SECONDS:
            with contextlib.suppress(RunError):
                statuses.append((time.time(), trial.recorded_status))
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    return started, statuses


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the result. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ui.training.estimate", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the options, for the result")
    folder = parser.parse_args(argv).folder
    _write(folder, state="running", **this_process())
    try:
        estimate = run(folder)
    except (ValueError, OSError, KeyError) as error:
        _write(folder, state="failed", error=str(error))
        return 1
    _write(folder, state="done", estimate=dataclasses.asdict(estimate))
    return 0


def _counts(dataset: Any) -> Counts:
    return Counts(len(dataset.split("train")), len(dataset.split("val")), len(dataset))


def _place(root: Path, task: str, options: Mapping[str, Any]) -> Path:
    kept = {key: value for key, value in options.items() if key not in ("recipe", "seed")}
    text = json.dumps([task, kept], sort_keys=True)
    return root / ESTIMATES / hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(folder: Path, **content: Any) -> None:
    write_atomically(folder / _RESULT, json.dumps(content))


if __name__ == "__main__":
    sys.exit(main())
