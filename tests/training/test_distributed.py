"""Two processes on a CPU (gloo) give the result of one."""

import json
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geoclip_core.training.distributed import gather_rows, scaled_gradient
from geoclip_core.training.runs import Run
from tests.model import tiny_networks
from tests.training import tiny_photos
from tests.training.tiny_training import call
from train.__main__ import main
from train.benchmarks.forked import Forked

COMMON = ("--device", "cpu", "--log-every", "1", "--batch-size", "30", "--epochs", "2")
# "--multi_gpu" is how Accelerate starts several processes without MPI; "--device cpu" keeps them
# off the GPU that a computer may have.
LAUNCH = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)
CASES = {
    "heads": ("fit", ("--geocells.cells", "12", "--dropout", "0", "--learning-rate", "0.005")),
    "end-to-end": (
        "fit",
        (
            *("--train-backbone", "last-block", "--backbone-learning-rate", "0.001"),
            *("--geocells.cells", "12", "--dropout", "0", "--accumulation", "2"),
        ),
    ),
    "pretrain": ("pretrain", ("--width", "16")),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("distributed")
    data = root / "photos"
    data.mkdir()
    return (
        tiny_photos.write(data, train=101, test=20),
        tiny_networks.write("resnet", root / "resnet", seed=1),
    )


def in_two(*arguments, log):
    """Run the command in two processes as the launcher does; return the exit status of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
        **{"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"},
    }
    pair = [
        Forked(*arguments, log=log, **variables, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")
    ]
    return [process.wait() for process in pair]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, places, tmp_path):
    task, options = CASES[case]
    data, network = places
    runs = []
    for number in (1, 2):
        folder = tmp_path / f"run{number}"
        arguments = [
            *(task, "--data", data, "--backbone", network, *COMMON, *options),
            *("--output", folder, "--cache-dir", tmp_path / f"cache{number}"),
        ]
        if number == 1:
            assert main([str(argument) for argument in arguments]) == 0
        elif case == "heads":  # by the launcher itself, once
            done = call(*arguments, launcher=LAUNCH)
            assert done.returncode == 0, done.stderr[-3000:]
            assert done.stderr.count("run folder:") == 1
        else:
            log = tmp_path / "log.txt"
            assert in_two(*arguments, log=log) == [0, 0], log.read_text()[-3000:]
            assert log.read_text().count("run folder:") == 1
        runs.append(Run.open(folder))
        assert runs[-1].status.state == "finished"
    one, two = ([row for row in run.metrics()] for run in runs)
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for first, second in zip(one, two, strict=True):
        for name in first.keys() - {"time"}:
            # a photo on the edge of two classes may fall to the other side
            loose = name.endswith(("_top1", "_zero_shot", "_of_16", "_km"))
            tolerance = {"rel": 0.05, "abs": 0.1} if loose else {"rel": 2e-3}
            assert first[name] == pytest.approx(second[name], **tolerance), (first["step"], name)
    weights = [load_file(run.checkpoint / "model.safetensors") for run in runs]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], rtol=1e-2, atol=2e-3), name
    reports = [json.loads((run.folder / "metrics.json").read_text()) for run in runs]
    assert reports[0].keys() == reports[1].keys()


@pytest.mark.slow
def test_a_batch_smaller_than_the_number_of_processes_is_an_error(places, tmp_path):
    data, network = places
    folder = tmp_path / "run"
    log = tmp_path / "log.txt"
    arguments = ("fit", "--data", data, "--backbone", network, *COMMON, "--batch-size", "1")
    arguments += ("--coordinate-head", "geocells")  # a bank has no batches
    ended = in_two(*arguments, "--output", folder, "--cache-dir", tmp_path / "cache", log=log)
    assert 0 not in ended
    assert "cannot be shared by 2 processes" in (
        log.read_text() + str(Run.open(folder).status.error)
    )


def test_with_one_process_nothing_is_gathered():
    values = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(values, [3], 0) is values


def test_only_the_rows_of_the_own_process_have_a_gradient(monkeypatch):
    others = torch.tensor([[5.0, 5.0], [6.0, 6.0]])

    def all_gather(received, padded):
        received[0].copy_(padded)
        received[1][:2].copy_(others)

    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    values = torch.randn(3, 2, requires_grad=True)
    gathered = gather_rows(values, [3, 2], 0)
    assert torch.equal(gathered, torch.cat([values, others]))
    (gathered**2).sum().backward()
    assert torch.allclose(values.grad, 2 * values)


def test_scaling_the_gradient_does_not_change_the_value():
    value = torch.tensor(3.0, requires_grad=True)
    (scaled_gradient(value, 0.25) * 2).backward()
    assert value.grad == 0.5
    assert scaled_gradient(value, 0.25) == value


def test_rows_are_gathered_in_the_order_of_the_batch():
    batch = np.random.default_rng(0).permutation(11)
    assert np.array_equal(np.concatenate(np.array_split(batch, 3)), batch)
