"""A training that is killed and resumed gives the result of one that was not interrupted."""

import json
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

from geoclip_core.training.fit import FitRun, fit
from geoclip_core.training.options import FitOptions, from_mapping
from geoclip_core.training.runs import Run
from geoclip_core.training.state import StateError, read_state
from tests.model import tiny_networks
from tests.training import tiny_photos
from tests.training.tiny_training import QUICK, command, environment, work
from train.__main__ import main
from train.benchmarks.forked import Forked

COMMON = ("--device", "cpu", "--log-every", "1", "--save-seconds", "0", "--batch-size", "24")
CASES = {
    "heads": ("fit", "resnet", ("--epochs", "6", "--geocells.cells", "12", "--dropout", "0.3")),
    "end-to-end": (
        "fit",
        "resnet",
        (
            *("--train-backbone", "last-block", "--backbone-learning-rate", "0.01"),
            *("--epochs", "3", "--geocells.cells", "12", "--dropout", "0.3", "--accumulation", "2"),
        ),
    ),
    "pretrain": ("pretrain", "resnet", ("--epochs", "3", "--width", "16")),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_photos.write(tmp_path_factory.mktemp("photos"), train=150, test=20)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    return {"resnet": tiny_networks.write("resnet", root / "resnet", seed=1)}


def _numbers(run):
    return [{k: v for k, v in row.items() if k != "time"} for row in run.metrics()]


def _steps(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def _wait(alive, condition, seconds=120):
    deadline = time.monotonic() + seconds
    while alive() and not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def _arguments(case, data, networks, cache):
    task, network, options = CASES[case]
    shared = ("--data", data, "--backbone", networks[network], *COMMON, *options)
    return task, (task, *shared, "--cache-dir", cache)


@pytest.fixture(scope="module")
def whole(data, networks, tmp_path_factory):
    """Uninterrupted runs, each made when it is first asked for."""
    made = {}

    def make(case):
        if case not in made:
            root = tmp_path_factory.mktemp(f"whole-{case}")
            _, arguments = _arguments(case, data, networks, root / "cache")
            log = root / "log.txt"
            assert Forked(*arguments, "--output", root / "run", log=log).wait() == 0, (
                log.read_text()
            )
            made[case] = Run.open(root / "run")
        return made[case]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_uninterrupted(case, data, networks, whole, tmp_path):
    one = whole(case)
    task, begin = _arguments(case, data, networks, tmp_path / "cache")
    killed, log = tmp_path / "killed", tmp_path / "log.txt"
    total = _steps(one.folder)
    # before the first saved state, in the middle of an epoch, near the end
    moments = (0, total // 3, total - 1) if case == "heads" else (total // 2,)
    for number, moment in enumerate(moments):
        resumed = (task, "--resume", killed)
        process = Forked(*(resumed if number else (*begin, "--output", killed)), log=log)
        _wait(process.is_alive, lambda: (killed / "status.json").exists())
        _wait(process.is_alive, lambda: Run.open(killed).recorded_status.state == "running")
        _wait(process.is_alive, lambda moment=moment: _steps(killed) >= moment)
        process.kill()
        process.wait()
        assert Run.open(killed).status.state == "failed"
        kinds = {path.suffix for path in killed.rglob("*") if path.is_file()}
        # nothing is pickled; .0 are TensorBoard events, .part is a file that was being written
        assert kinds <= {".json", ".jsonl", ".yaml", ".txt", ".safetensors", ".0", "", ".part"}
    assert Forked(task, "--resume", killed, log=log).wait() == 0, log.read_text()
    assert not list(killed.rglob("*.part"))  # what the killed processes left half written
    other = Run.open(killed)
    assert other.status.state == "finished"
    assert _numbers(other) == _numbers(one)
    first = load_file(one.checkpoint / "model.safetensors")
    second = load_file(other.checkpoint / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    reports = [json.loads((run.folder / "metrics.json").read_text()) for run in (one, other)]
    for report in reports:
        report.pop("about")
    assert reports[0] == reports[1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "stop file"])
def test_a_stopped_run_has_a_checkpoint_and_can_be_resumed(how, data, networks, whole, tmp_path):
    _, begin = _arguments("heads", data, networks, tmp_path / "cache")
    folder, log = tmp_path / "stopped", tmp_path / "log.txt"
    begin = (*begin, "--output", folder)
    if how == "SIGTERM":  # as it is started outside tests, once
        process = subprocess.Popen(command(*begin), env=environment(), stderr=log.open("wb"))
        _wait(lambda: process.poll() is None, lambda: _steps(folder) >= 9)
        process.send_signal(signal.SIGTERM)
    else:
        process = Forked(*begin, log=log)
        _wait(process.is_alive, lambda: _steps(folder) >= 9)
        Run.open(folder).request_stop()
    assert process.wait(120) == 0, log.read_text()
    run = Run.open(folder)
    assert run.status.state == "stopped"
    assert (run.checkpoint / "model.safetensors").exists()
    assert "stopped" in json.loads((run.checkpoint / "metrics.json").read_text())
    assert read_state(folder / "resume").step == run.status.step
    if how == "SIGTERM":
        assert Forked("fit", "--resume", folder, log=log).wait() == 0, log.read_text()
        assert _numbers(run) == _numbers(whole("heads"))


@pytest.mark.slow
def test_metrics_of_steps_after_the_saved_state_are_removed(data, networks, tmp_path):
    run = Run.create(tmp_path, "x", {}, "fit", tmp_path / "run")
    run.log_metrics({"step": 7, "train/loss": 1.0})
    values = {"data": data, "backbone": str(networks["resnet"]), "cache_dir": tmp_path / "cache"}
    options = from_mapping(FitOptions, QUICK | values, "test")
    work(run, options, FitRun, fit)
    assert [row["step"] for row in run.metrics()][:2] == [1, 2]


def test_a_run_that_cannot_be_resumed_is_an_error(tmp_path, capsys):
    run = Run.create(tmp_path, "x", {}, "fit", tmp_path / "run")
    run.update(state="finished")
    assert main(["fit", "--resume", str(run.folder)]) == 0
    assert "has finished" in capsys.readouterr().out
    for arguments, message in (
        (["pretrain", "--resume", str(run.folder)], "run of fit"),
        (["fit", "--resume", str(tmp_path / "nothing")], "not a run folder"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fit", "--resume", str(run.folder), "--epochs", "3"])
    assert "leave out epochs" in capsys.readouterr().err


def test_a_damaged_state_is_an_error_that_names_the_file(tmp_path):
    folder = tmp_path / "resume" / "step-000000003"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"step": 3}')
    (folder / "state.safetensors").write_bytes(b"half")
    with pytest.raises(StateError, match=r"state\.safetensors"):
        read_state(tmp_path / "resume")
