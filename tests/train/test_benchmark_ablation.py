"""The ablation: every row is evaluated, on the test split or on held-out folds."""

import json

import numpy as np
import pytest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.earth.sphere import geoscore
from geoclip_core.training import embeddings
from geoclip_core.training.distributed import build_accelerator
from geoclip_core.training.options import FitOptions
from tests.training import tiny_photos
from train.__main__ import main
from train.benchmarks import ablation
from train.benchmarks.ablation import (
    DEGREES,
    AblationOptions,
    AblationResult,
    AblationTable,
    ablation_splits,
    fit_degrees_model,
    variants,
)


@pytest.fixture
def few_steps(monkeypatch):
    """Train the model of degrees for a fifth of the steps, where that is enough."""
    monkeypatch.setattr(ablation, "STEPS", 300)


@pytest.fixture(autouse=True)
def no_export(monkeypatch):
    """Embed in torch: for small photos that is faster than an export for each backbone."""
    monkeypatch.setattr(embeddings, "MANY_PHOTOS", 1000)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return tiny_photos.write(tmp_path_factory.mktemp("photos"), train=120, test=30)


def quick(photos, tmp_path, *arguments):
    return [
        *("benchmark", "ablation", "--data", str(photos), "--views", "64x64"),
        *("--epochs", "2", "--pretrain-epochs", "1", "--seeds", "1"),
        *("--cache-dir", str(tmp_path / "cache"), *arguments),
    ]


@pytest.mark.slow
def test_every_row_is_evaluated_on_the_test_split(few_steps, photos, tmp_path, capsys):
    output = tmp_path / "ablation.json"
    assert main(quick(photos, tmp_path, "--output", str(output))) == 0
    found = json.loads(output.read_text())
    shown = capsys.readouterr().out
    rows = {(row["head"], row["use_context"], row["pretraining"]): row for row in found["rows"]}
    baselines = [row for (_, context, _), row in rows.items() if not context]
    assert len(rows) == len(variants()) + len(baselines)
    assert {"best constant guess", "place of the most similar photo"} <= {
        row["head"] for row in baselines
    }
    assert rows["geocells, smoothing 0.5", "yes", "no"]["context"].keys() >= {"state", "climate"}
    assert rows["geocells, smoothing 0.5", "no", "no"]["context"] == {}
    assert {(DEGREES, "yes", "no"), ("bank", "no", "yes")} <= rows.keys()
    assert all(np.isfinite(row["median_km"]) for row in rows.values())
    assert shown.count("\n| ") == len(rows) + 1
    # the colours say where the photos are: whatever learns must beat what does not look
    assert rows["bank", "no", "no"]["geoscore"] > rows["best constant guess", "", ""]["geoscore"]


@pytest.mark.slow
def test_folds_hold_out_every_photo_once_even_from_pretraining(photos, tmp_path):
    options = AblationOptions(
        data=photos, folds=3, seeds=1, views=("64x64",), pretrain=False, cache_dir=tmp_path
    )
    accelerator = build_accelerator(FitOptions(device="cpu"))
    seen = []
    for split, seed in ablation_splits(options, read_dataset(photos), accelerator):
        parts = [set(part.table["id"]) for part in (split.train, split.val, split.test)]
        assert seed == 0
        assert sum(map(len, parts)) == len(set.union(*parts)) == 150
        assert len(split.embeddings["plain"]["train"]) == len(split.train)
        seen += split.test.table["id"].tolist()
    assert sorted(seen) == sorted(read_dataset(photos).table["id"])


def test_the_deviation_is_over_seeds_with_pooled_folds():
    table = AblationTable("")
    errors = [[0.0, 100.0], [2000.0, 50.0], [10.0, 20.0], [30.0, 9000.0]]
    for index, values in enumerate(errors):
        result = AblationResult(np.array(values), {"state": (1, 2)}, 2.0)
        table.add(("head", "yes", "no"), index // 2, result)
    numbers = table.numbers(("head", "yes", "no"))
    scores = [geoscore(np.array(errors[i] + errors[i + 1])).mean() for i in (0, 2)]
    assert numbers["geoscore"] == pytest.approx(np.mean(scores))
    assert numbers["geoscore_deviation"] == pytest.approx(np.std(scores))
    assert numbers["median_km"] == pytest.approx(40.0)
    assert numbers["context"] == {"state": 0.5}
    assert numbers["seconds"] == 2.0


def test_invalid_options_are_rejected_before_anything_is_loaded(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "ablation"])
    assert "--data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["benchmark", "ablation", "--data", "x", "--folds", "1"])
    assert "folds" in capsys.readouterr().err


def examples(count: int = 600):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(count, 8)).astype(np.float32)
    state = (embeddings[:, 1] > 0).astype(np.int64)
    coordinates = np.stack([embeddings[:, 1], embeddings[:, 2]], axis=1).astype(np.float64)
    return embeddings, coordinates, state


@pytest.mark.slow
def test_the_degrees_model_learns_degrees():
    embeddings, coordinates, _ = examples()
    train, val = (embeddings[:400], coordinates[:400]), (embeddings[400:500], coordinates[400:500])
    places, _ = fit_degrees_model(train, val, {}, {})(embeddings[500:])
    error = np.abs(places - coordinates[500:]).mean(axis=0)
    constant = np.abs(coordinates[:400].mean(axis=0) - coordinates[500:]).mean(axis=0)
    assert (error < 0.6 * constant).all()


def test_the_degrees_model_learns_context_if_all_places_are_the_same(few_steps):
    embeddings, _, state = examples()
    still = np.zeros((len(state), 2))
    train, val = (embeddings[:400], still[:400]), (embeddings[400:500], still[400:500])
    _, logits = fit_degrees_model(train, val, {"state": state[:400]}, {"state": 2})(
        embeddings[500:]
    )
    assert (logits["state"].argmax(axis=1) == state[500:]).mean() > 0.8


def test_the_degrees_model_without_context_has_no_logits(few_steps):
    embeddings, coordinates, _ = examples(100)
    data = (embeddings, coordinates)
    places, logits = fit_degrees_model(data, data, {}, {})(embeddings[:3])
    assert places.shape == (3, 2)
    assert logits == {}


@pytest.mark.slow
def test_unknown_labels_are_left_out(few_steps):
    embeddings, coordinates, state = examples(100)
    unknown = np.full_like(state, -100)
    data = (embeddings, coordinates)
    _, logits = fit_degrees_model(data, data, {"state": unknown}, {"state": 2})(embeddings)
    assert np.isfinite(logits["state"]).all()


@pytest.mark.slow
def test_the_epoch_is_chosen_on_val(few_steps):
    embeddings, coordinates, _ = examples(200)
    train, elsewhere = (embeddings, coordinates), (embeddings, np.zeros_like(coordinates))
    away = fit_degrees_model(train, elsewhere, {}, {})(embeddings)[0]
    home = fit_degrees_model(train, train, {}, {})(embeddings)[0]
    assert np.abs(away).mean() < np.abs(home).mean()


def test_answers_are_valid_coordinates(few_steps):
    embeddings, _, _ = examples(200)
    wild = np.stack([400 * embeddings[:, 1], 2000 * embeddings[:, 2]], axis=1).astype(np.float64)
    data = (embeddings, wild)
    places, _ = fit_degrees_model(data, data, {}, {})(1000 * embeddings)
    assert (np.abs(places[:, 0]) <= 90).all()
    assert ((places[:, 1] >= -180) & (places[:, 1] < 180)).all()
