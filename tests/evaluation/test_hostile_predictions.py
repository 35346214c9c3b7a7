"""Predictions tables of strangers: read within limits, or refused with file and column."""

import contextlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoclip_core.data.vocabulary import class_name
from geoclip_core.evaluation import predictions
from geoclip_core.evaluation.evaluate import describe, predictions_of
from geoclip_core.evaluation.metrics import head_metrics, head_reliability, summarise
from geoclip_core.evaluation.predictions import (
    PredictionsError,
    head_features,
    read_about,
    read_candidates,
    read_predictions,
    write_predictions,
)
from geoclip_core.evaluation.report import difference_rows, differences_html
from geoclip_core.evaluation.style import LIGHT
from tests.evaluation.synthetic_predictions import synthetic_predictions
from tests.hostile import damaged_bytes, edited_frames, edited_json
from train.benchmarks.hostile import replace_file

FRAME = synthetic_predictions(30)
BOUNDED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def use(path):
    """Read a table as the page and the report do; what is wrong names the file."""
    with contextlib.suppress(PredictionsError):
        about = describe(path)
        json.dumps(about).encode()
        frame = read_predictions(path, candidates=False)
        read_candidates(path, "photo-000007")
        if len(frame):
            summarise(frame, resamples=0)
        for feature in head_features(frame):
            for key in frame[f"{feature}_top1"].dropna().unique():
                class_name(feature, key)


@BOUNDED
@given(frame=edited_frames(FRAME))
def test_wrong_values_are_read_or_refused(tmp_path, frame):
    path = tmp_path / "predictions.parquet"
    try:
        write_predictions(frame, path, {"model": "m"})
    except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeEncodeError):
        return  # arrow cannot hold such values in one column
    use(path)


@BOUNDED
@given(data=st.data())
def test_damaged_bytes_are_refused(tmp_path, data):
    path = write_predictions(FRAME, tmp_path / "predictions.parquet", {"model": "m"})
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    use(path)


@BOUNDED
@given(text=edited_json({"model": "m", "dataset": "d", "split": "test", "root": "/x", "note": "n"}))
def test_any_description_is_read_or_refused(tmp_path, text):
    table = pa.Table.from_pandas(FRAME).replace_schema_metadata(
        {b"geolocation_predictions": text.encode(), b"pandas": b"{"}
    )
    path = tmp_path / "predictions.parquet"
    pq.write_table(table, path)
    use(path)
    assert len(read_predictions(path)) == 30  # the table itself is in order


def changed(tmp_path, **columns):
    frame = FRAME.assign(**columns)
    return write_predictions(frame, tmp_path / "predictions.parquet", {"model": "m"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"error_km": np.inf}, "error_km of id 'photo-000000' is inf"),
        ({"error_km": 30_000.0}, "it must lie between 0 and 20100"),
        ({"radius_50_km": -1.0}, "radius_50_km of id"),
        ({"climate": 30}, "climate of id .* is 30"),
        ({"climate": 3.5}, "climate must hold whole numbers"),
        ({"month": 12}, "month of id .* is 12"),
        ({"latitude": "here"}, "latitude holds 'string', not numbers"),
        ({"predicted_latitude": [[1.0]] * 30}, "predicted_latitude holds"),
        ({"id": [None, *FRAME["id"][1:]]}, "row 1 has no id"),
        ({"id": "same"}, "'same' occurs twice"),
        ({"climate_rank": 0}, "climate_rank of id"),
        ({"climate_probability": 2.0}, "climate_probability of id"),
        ({"climate_top1": 0.5}, "climate_top1 holds .*, not texts"),
    ],
)
def test_the_column_that_is_wrong_is_named(tmp_path, columns, message):
    with pytest.raises(PredictionsError, match=rf"predictions\.parquet: .*{message}"):
        read_predictions(changed(tmp_path, **columns))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_special_and_huge_files_are_refused(tmp_path, kind):
    path = tmp_path / "predictions.parquet"
    replace_file(path, kind)
    assert predictions_of(tmp_path) == path  # so that a page says what is wrong with it
    for read in (read_predictions, read_about, describe):
        with pytest.raises(PredictionsError, match=r"predictions\.parquet"):
            read(path)
    assert read_candidates(path, "x") == []


def test_a_table_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    """A text of 10 kB that is repeated takes a few bytes a row in the file."""
    monkeypatch.setattr(predictions, "MAX_MEMORY", 100_000)
    path = changed(tmp_path, note="x" * 10_000)
    assert path.stat().st_size < 200_000
    with pytest.raises(PredictionsError, match="the column note unpacks to"):
        read_predictions(path)
    monkeypatch.setattr(predictions, "MAX_MEMORY", 1000)
    with pytest.raises(PredictionsError, match="unpacks to more than"):
        read_predictions(path)


def test_a_table_of_too_many_rows_or_columns_is_refused(tmp_path, monkeypatch):
    path = changed(tmp_path)
    monkeypatch.setattr(predictions, "MAX_ROWS", 29)
    with pytest.raises(PredictionsError, match="it has 30 rows; at most 29"):
        read_predictions(path)
    monkeypatch.setattr(predictions, "MAX_COLUMNS", 5)
    with pytest.raises(PredictionsError, match="up to 5 columns"):
        read_predictions(path)


def test_columns_of_other_kinds_are_left_out(tmp_path):
    times = pd.to_datetime(["2020-01-01"] * 30)
    frame = read_predictions(changed(tmp_path, taken=times, extra=[{"a": 1}] * 30, more=1.5))
    assert "more" in frame
    assert not {"taken", "extra"} & set(frame)


def test_a_class_that_does_not_exist_is_shown_as_it_is():
    assert class_name("month", "11") == "December"
    for key in ("12", "999", "²", "9" * 5000, "x"):
        assert class_name("month", key) == key


def test_a_head_without_probabilities_has_no_reliability():
    frame = FRAME.assign(climate_probability=np.nan)
    assert head_reliability(frame, "climate").empty
    assert np.isnan(head_metrics(frame, "climate")["expected_calibration_error"])
    frame.loc[:9, "climate_probability"] = 0.25
    assert head_reliability(frame, "climate")["n"].sum() <= 10


def test_the_difference_on_one_photo_has_no_interval():
    frame = FRAME.head(1)
    table = difference_rows(frame, {"other": frame["error_km"].to_numpy() * 2})
    assert len(table)
    assert "1 photos" in differences_html(table, "m", LIGHT)
