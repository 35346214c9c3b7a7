import pandas as pd
import pytest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.demo.dataset import write_demo
from geoclip_core.training.runs import RunStatus, this_process
from ui.training import estimate
from ui.training.estimate_panel import sentence
from ui.training.timing import (
    Counts,
    Estimate,
    measure_seconds,
    sample_batch,
    scale_up,
    write_sample,
)

STATUSES = [
    (100.0, RunStatus("queued", "fit")),
    (106.0, RunStatus("running", "fit", phase="embedding", progress=0.08)),
    (106.4, RunStatus("running", "fit", phase="embedding", progress=0.08)),
    (110.0, RunStatus("running", "fit", phase="embedding", progress=0.28)),
    (111.0, RunStatus("running", "fit", phase="training, epoch 1 of 3")),
    (115.0, RunStatus("running", "fit", phase="training, epoch 3 of 3")),
    (116.0, RunStatus("running", "fit", phase="calibrating")),
]
ROWS = [
    {"step": 1, "time": 111.0, "train/loss": 3.0},
    {"step": 2, "time": 111.5, "train/loss": 3.0},
    {"step": 2, "time": 112.5, "val/median_km": 3.0},
    {"step": 3, "time": 113.25, "train/loss": 3.0},
    {"step": 4, "time": 113.75, "train/loss": 3.0},
    {"step": 4, "time": 114.75, "val/median_km": 3.0},
]
OPTIONS = {"train": "backbone=none", "batch_size": 64, "epochs": 10}
SAMPLE = Counts(train=128, val=48, every=182)
WHOLE = Counts(train=6400, val=480, every=7532)


def test_seconds_of_each_part():
    assert measure_seconds(100.0, STATUSES, ROWS, 182) == pytest.approx(
        # 32 photos are a share of 0.08, so that 80 took 4 s
        {"start": 6.0, "photo": 0.05, "step": 0.5, "validation": 1.0, "saving": 0.25}
    )
    assert measure_seconds(100.0, STATUSES[:1], [], 182) == {}
    assert measure_seconds(100.0, STATUSES[:2], [], 182) == {"start": 6.0}


def test_photos_that_are_embedded_after_learning_or_too_quickly_to_see():
    quick = [STATUSES[0], STATUSES[1], STATUSES[4]]
    assert measure_seconds(100.0, quick, [], 132)["photo"] == pytest.approx(5 / 100)
    late = [STATUSES[4], (120.0, STATUSES[1][1]), (130.0, STATUSES[6][1])]
    assert measure_seconds(100.0, late, [], 132)["photo"] == pytest.approx(10 / 100)


def test_one_step_an_epoch_is_measured_with_its_saving():
    rows = [row for row in ROWS if row["step"] != 1 and row["step"] != 3]
    found = measure_seconds(100.0, STATUSES, rows, 182)
    assert (found["step"], found["saving"]) == (1.25, 0.0)


@pytest.mark.parametrize(
    ("train", "batch", "size"), [(205, 128, 103), (205, 64, 69), (205, 512, 205), (40, 1, 1)]
)
def test_the_sample_is_cut_into_steps_of_nearly_the_real_size(train, batch, size):
    assert sample_batch(train, batch) == size


def test_the_whole_from_the_sample():
    seconds = measure_seconds(100.0, STATUSES, ROWS, 182)
    found = scale_up(seconds, SAMPLE, WHOLE, OPTIONS, True)
    assert found.embedding == pytest.approx(0.05 * 7532)
    # 100 steps of half a second, ten times the validation, one state saved: ten times over
    assert found.learning == pytest.approx(10 * (100 * 0.5 + 10 * 1.0 + 0.25))
    assert found.total == pytest.approx(6 + found.embedding + found.learning)


def test_a_step_of_more_photos_than_the_sample_takes_longer():
    large = {**OPTIONS, "batch_size": 256}
    found = scale_up({"step": 0.5}, SAMPLE, WHOLE, large, True)
    assert found.learning == pytest.approx(10 * 25 * 0.5 * 2)


def test_a_backbone_that_learns_embeds_twice():
    learns = {**OPTIONS, "train": "backbone=all"}
    found = scale_up({"photo": 0.1}, SAMPLE, WHOLE, learns, True)
    assert found.embedding == pytest.approx(0.1 * (7532 + 2000))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = write_demo(tmp_path_factory.mktemp("data") / "demo", 60, metadata_only=True)
    for path in read_dataset(folder).paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_the_sample_is_a_dataset_of_the_same_photos(demo, tmp_path):
    assert write_sample(demo, tmp_path / "sample", 20, 0) == 20
    sample = read_dataset(tmp_path / "sample", val_fraction=0)
    whole = read_dataset(demo, val_fraction=0).table.set_index("id")
    assert set(sample.table["id"]) <= set(whole.index)
    assert all(path.is_file() for path in sample.paths)
    assert pd.isna(sample.table["month"]).sum() == 0


def test_a_small_dataset_is_taken_whole(demo, tmp_path):
    assert write_sample(demo, tmp_path / "sample", 1000, 0) == 51


@pytest.mark.parametrize(
    ("estimate", "options", "words"),
    [
        (Estimate(6, 540, 200, 192), {**OPTIONS, "patience": 10}, "12 min"),
        (Estimate(6, 540, 200, 192), {**OPTIONS, "patience": 10}, "less if it ends early"),
        (Estimate(6, 0, 20, 192), {**OPTIONS, "train": "backbone=all"}, "20 s to learn"),
        (Estimate(6, 9000, 0, 192, complete=False), OPTIONS, "More than **2 h 30 min**"),
        (Estimate(6, 60, 0, 192), {"coordinate_head": "retrieval"}, "closed form"),
    ],
)
def test_an_estimate_in_words(estimate, options, words):
    assert words in sentence(estimate, options)


def test_measurements_are_estimate_by_their_options(tmp_path):
    options = {"data": "x", "epochs": 3, "seed": 1}
    folder = estimate._place(tmp_path, "fit", options)
    assert estimate.measurement(tmp_path, "fit", options) is None
    folder.mkdir(parents=True)
    estimate._write(folder, state="running", **this_process())
    assert estimate.measurement(tmp_path, "fit", options).state == "running"
    gone = {**this_process(), "pid_started_at": 1.0}
    estimate._write(folder, state="running", **gone)
    assert estimate.measurement(tmp_path, "fit", options).state == "failed"
    estimate._write(
        folder,
        state="done",
        estimate={"start": 1, "embedding": 2, "learning": 3, "photos": 4, "complete": True},
    )
    assert estimate.measurement(tmp_path, "fit", {**options, "seed": 5}).estimate.total == 6
    assert estimate.measurement(tmp_path, "fit", {**options, "epochs": 4}) is None
    (folder / "estimate.json").write_text("[]")
    assert estimate.measurement(tmp_path, "fit", options) is None


def test_a_dataset_that_is_not_there_is_said(tmp_path):
    folder = tmp_path / "measure"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "command: fit\nfit: {data: nowhere, seed: 0, val_fraction: 0.1}\n"
    )
    assert estimate.main([str(folder)]) == 1
    assert "no such folder" in (folder / "estimate.json").read_text()
