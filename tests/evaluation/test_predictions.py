"""The predictions table: made, checked, written and read."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.evaluation.predictions import (
    CANDIDATE_COLUMNS,
    CORE_COLUMNS,
    PredictionsError,
    head_features,
    predictions_frame,
    read_about,
    read_candidates,
    read_predictions,
    validate_predictions,
    write_predictions,
)
from geoclip_core.model.posterior import Posterior
from tests.evaluation.synthetic_predictions import TinyDataset, synthetic_predictions

STATES = {"state": Vocabulary("state", ("A", "B", "C", "D"), ("A", "B", "C", "D"))}


def dataset(labels, **columns):
    table = pd.DataFrame(
        {
            "id": [str(i) for i in range(len(labels))],
            "latitude": 0.0,
            "longitude": 179.9,
            "state_key": ["A"] * len(labels),
            **columns,
        }
    )
    return TinyDataset(table, {"state": np.array(labels)})


def estimate(probabilities, longitude=-179.9):
    posterior = Posterior(np.array([[0.0, longitude], [40.0, 40.0]]), np.log([0.8, 0.2]), 50.0)
    return SimpleNamespace(posterior=posterior, context={"state": np.asarray(probabilities)})


def test_every_column_of_a_row():
    frame = predictions_frame(
        dataset([1, -100, 3], month=[3, -100, 0]),
        (estimate(p) for p in ([0.5, 0.3, 0.2, 0], [0.1, 0.7, 0.1, 0.1], [0.25] * 4)),
        STATES,
    )
    assert set(CORE_COLUMNS) <= set(frame)
    assert set(CANDIDATE_COLUMNS) <= set(frame)
    assert frame["error_km"].tolist() == pytest.approx([22.239] * 3, abs=1e-3)  # over the date line
    assert frame["state_top1"].tolist() == ["A", "B", "A"]
    assert frame["state_truth"].isna().tolist() == [False, True, False]
    # ties go to the lower index, in top-1 as in the rank
    assert frame["state_rank"].tolist() == [2, pd.NA, 4]
    assert frame["state_probability"].tolist() == pytest.approx([0.5, 0.7, 0.25])
    assert frame["state_truth_probability"][0] == pytest.approx(0.3)
    assert np.isnan(frame["state_truth_probability"][1])
    assert frame["candidate_probabilities"][0] == pytest.approx([0.8, 0.2])
    assert (frame["radius_50_km"] < frame["radius_90_km"]).all()
    assert frame["month"].tolist() == [3, -100, 0]
    assert head_features(frame) == ["state"]


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_estimates_is_an_error(count):
    with pytest.raises(PredictionsError, match="estimates"):
        predictions_frame(dataset([0, 1]), [estimate([0.25] * 4)] * count, STATES)


def test_a_head_of_another_length_is_an_error():
    with pytest.raises(PredictionsError, match=r"\(3,\).*vocabulary of 4"):
        predictions_frame(dataset([0]), [estimate([0.2, 0.3, 0.5])], STATES)


def test_round_trip(tmp_path):
    frame = synthetic_predictions(30)
    about = {"model": "mini", "split": "test"}
    path = write_predictions(frame, tmp_path / "deep" / "predictions.parquet", about)
    back = read_predictions(path)
    pd.testing.assert_frame_equal(
        frame.drop(columns=list(CANDIDATE_COLUMNS)), back.drop(columns=list(CANDIDATE_COLUMNS))
    )
    assert read_about(path) == about
    assert [p.name for p in path.parent.iterdir()] == ["predictions.parquet"]
    assert not set(CANDIDATE_COLUMNS) & set(read_predictions(path, candidates=False))
    candidates = read_candidates(path, "photo-000007")
    assert candidates[0][:2] == pytest.approx(
        (frame["predicted_latitude"][7], frame["predicted_longitude"][7])
    )
    assert read_candidates(path, "unknown") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latitude": 91.0}, "latitude of id 'photo-000000'"),
        ({"predicted_longitude": float("nan")}, "predicted_longitude"),
        ({"error_km": float("nan")}, "error_km"),
        ({"id": "same"}, "'same' occurs twice"),
    ],
)
def test_errors_name_the_wrong_value(change, message):
    with pytest.raises(PredictionsError, match=message):
        validate_predictions(synthetic_predictions(3, candidates=False).assign(**change))


def test_errors_name_a_missing_column():
    with pytest.raises(PredictionsError, match="radius_50_km"):
        validate_predictions(synthetic_predictions(3).drop(columns="radius_50_km"))


def test_files_that_are_not_predictions_are_an_error(tmp_path):
    with pytest.raises(PredictionsError, match="not a readable"):
        read_predictions(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("id,latitude\n")
    with pytest.raises(PredictionsError, match="not a readable"):
        read_predictions(tmp_path / "text.parquet")
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(PredictionsError, match="missing: latitude"):
        read_predictions(tmp_path / "other.parquet")
