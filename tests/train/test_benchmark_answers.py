"""`benchmark answers`: what answers claim, on a world with known truth and on a demo set."""

import json

import numpy as np
import pytest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.demo.dataset import write_demo
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.checkpoint import save_checkpoint
from geoclip_core.model.domain import Domain
from geoclip_core.model.posterior import Posterior
from tests.ui.conftest import ABILENE, make_model
from train.__main__ import main
from train.benchmarks.answers import compare_misfits
from train.benchmarks.pictures import KINDS


def world(count, seed=0):
    """Photos of sixty places, three of which have most photos, and their right posteriors."""
    rng = np.random.default_rng(seed)
    points = np.c_[rng.uniform(-55, 70, 60), rng.uniform(-180, 180, 60)]
    before = Posterior(points, np.log(1 / np.arange(1, 61)), 300.0)
    own = rng.choice(60, count, p=before.weights)
    evidence = rng.normal(size=(count, 60)) + 1.5 * (np.arange(60) == own[:, None])
    posteriors = [
        Posterior(points, before.log_weights + 1.5 * row, 300.0, prior=before) for row in evidence
    ]
    return posteriors, points[own] + rng.normal(0, 2, (count, 2))


def test_both_misfits_are_valid_and_the_ratio_has_more_power():
    posteriors, truth = world(400)
    found = compare_misfits(posteriors, truth, np.zeros(400, dtype=np.int64))
    for name in ("mass", "ratio"):
        assert found[name]["rejected"] == pytest.approx(0.05, abs=0.03)
    assert found["ratio"]["power"] > found["mass"]["power"] + 0.05
    shuffled = compare_misfits(posteriors, truth[::-1], np.zeros(400, dtype=np.int64))
    # photos that say nothing of their places tell nothing apart
    assert shuffled["ratio"]["power"] == pytest.approx(0.05, abs=0.04)


def test_without_the_training_photos_there_is_no_ratio():
    posteriors, truth = world(20)
    plain = [Posterior(p.points, p.log_weights, 300.0) for p in posteriors]
    assert set(compare_misfits(plain, truth, np.zeros(20, dtype=np.int64))) == {"mass"}
    alone = np.arange(20)  # no other photo is held out with a photo
    assert compare_misfits(posteriors, truth, alone) == {}


@pytest.mark.slow
def test_every_part_is_measured_and_the_command_is_named(tmp_path, capsys):
    data = tmp_path / "demo"
    write_demo(data, 60, test_fraction=0.25, workers=1)
    model, numbers = make_model("texas", ABILENE, "BWh", "US")
    dataset = read_dataset(data)
    model.domain = Domain.of(dataset.split("train"), np.linspace(-1, 1, 100))
    model.calibration = Calibration(ranks=np.linspace(-2, 2, 50).tolist(), ranks_of="ratio")
    checkpoint = save_checkpoint(tmp_path / "texas", model, numbers)
    output, cache = tmp_path / "answers.json", tmp_path / "cache"
    arguments = ["--model", checkpoint, "--data", data, "--output", output, "--cache-dir", cache]
    assert main(["benchmark", "answers", *map(str, arguments), "--pictures", "2"]) == 0
    found = json.loads(output.read_text())
    assert found["command"] == "python -m train benchmark answers --model texas --data demo"
    assert found["levels"]["by_level"]["country"]["n"] == len(dataset.split("test"))
    assert set(found["unlike"]["kinds"]) == set(KINDS)
    # the pin of a photo moves into its country
    assert found["hints"]["country"]["geoscore"] >= found["hints"]["none"]["geoscore"]
    assert {"state", "climate", "country and climate", "context off"} <= set(found["hints"])
    assert found["misfits"]["ratio"]["rejected"] <= 1
    assert "random other places" in capsys.readouterr().out
