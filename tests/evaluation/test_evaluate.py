"""Predicting in shards, comparing two models, saving results, and CSVs of other systems."""

import json

import numpy as np
import pandas as pd
import pytest

from geoclip_core.evaluation import evaluate
from geoclip_core.evaluation.metrics import summarise
from geoclip_core.evaluation.predictions import (
    PredictionsError,
    imported_predictions,
    read_about,
    read_guesses,
)
from geoclip_core.model.calibration import Calibration
from tests.evaluation.synthetic_predictions import synthetic_predictions
from tests.training.fake_model import FakeModel, embeddings_of, photo_dataset


class TestShards:
    @pytest.fixture(autouse=True)
    def small_shards(self, monkeypatch):
        monkeypatch.setattr(evaluate, "SHARD_PHOTOS", 20)

    def run(self, folder, model=None, dataset=None, **options):
        dataset = photo_dataset(50) if dataset is None else dataset
        return evaluate.predict_in_shards(
            model or FakeModel(),
            dataset,
            embeddings_of(dataset),
            folder,
            **options,
        )

    def test_all_rows_in_order(self, tmp_path):
        dataset, seen = photo_dataset(50), []
        frame = self.run(tmp_path, progress=lambda *done: seen.append(done))
        assert frame["id"].tolist() == dataset.table["id"].tolist()
        assert seen == [(20, 50), (40, 50), (50, 50)]
        assert frame["state_truth"].notna().all()
        assert (frame["state_top1"] == frame["state_truth"]).mean() > 0.9

    def test_an_interrupted_prediction_reuses_its_finished_shards(self, tmp_path):
        def killed(done, total):
            if done == 40:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.run(tmp_path, progress=killed)
        model = FakeModel()
        resumed = self.run(tmp_path, model)
        assert model.photos_predicted == 10
        pd.testing.assert_frame_equal(resumed, self.run(tmp_path / "fresh"))

    def test_a_damaged_shard_is_computed_again(self, tmp_path):
        self.run(tmp_path)
        shard = sorted(tmp_path.rglob("*.parquet"))[1]
        shard.write_bytes(shard.read_bytes()[:100])
        model = FakeModel()
        assert len(self.run(tmp_path, model)) == 50
        assert model.photos_predicted == 20

    @pytest.mark.parametrize(
        "other",
        [
            {"model": FakeModel(spread_km=90)},
            {"model": FakeModel(calibration=Calibration(temperature=2.0))},
            {"dataset": photo_dataset(50, seed=8)},
        ],
    )
    def test_shards_of_other_models_or_photos_are_not_reused(self, tmp_path, other):
        self.run(tmp_path)
        model = other.pop("model", FakeModel())
        model.photos_predicted = 0
        self.run(tmp_path, model, **other)
        assert model.photos_predicted == 50

    def test_wrong_number_of_embeddings(self, tmp_path):
        with pytest.raises(PredictionsError, match="3 embeddings for 50"):
            evaluate.predict_in_shards(FakeModel(), photo_dataset(50), np.zeros((3, 2)), tmp_path)

    def test_no_photos(self, tmp_path):
        frame = self.run(tmp_path, dataset=photo_dataset(0))
        assert len(frame) == 0
        assert summarise(frame)["n"] == 0


class TestCompare:
    def test_photos_are_paired_by_id_in_any_order(self):
        frame = synthetic_predictions(300, candidates=False)
        worse = frame.assign(error_km=frame["error_km"] + 50).sample(frac=1, random_state=0)
        result = evaluate.compare(frame, worse.iloc[:200], resamples=100)
        assert result["n"] == 200
        assert result["difference"]["mean_km"]["difference"] == pytest.approx(-50)
        assert result["difference"]["geoscore"]["low"] > 0

    def test_equal_models_have_no_difference(self):
        frame = synthetic_predictions(200, candidates=False)
        difference = evaluate.compare(frame, frame, resamples=100)["difference"]["geoscore"]
        assert difference == {"difference": 0.0, "low": 0.0, "high": 0.0}

    def test_models_of_equal_skill_are_within_chance(self):
        frame = synthetic_predictions(500, candidates=False)
        rng = np.random.default_rng(0)
        other = frame.assign(error_km=frame["error_km"].to_numpy() * rng.lognormal(0, 0.3, 500))
        difference = evaluate.compare(frame, other, resamples=300)["difference"]["median_km"]
        assert difference["low"] <= difference["difference"] <= difference["high"]

    def test_no_photo_in_common(self):
        frame = synthetic_predictions(5, candidates=False)
        with pytest.raises(PredictionsError, match="no photo in common"):
            evaluate.compare(frame, frame.assign(id=[f"x{i}" for i in range(5)]))

    def test_same_ids_with_other_true_places_are_an_error(self):
        frame = synthetic_predictions(5, candidates=False)
        with pytest.raises(PredictionsError, match="different datasets"):
            evaluate.compare(frame, frame.assign(latitude=frame["latitude"] + 1))


class TestSaved:
    def test_files_and_about(self, tmp_path):
        frame = synthetic_predictions(20)
        about = {"model": "m", "dataset": "d", "split": "test"}
        folder = evaluate.save_evaluation(
            tmp_path / "new", frame, summarise(frame, resamples=20), about
        )
        assert sorted(p.name for p in folder.iterdir()) == ["metrics.json", "predictions.parquet"]
        numbers = json.loads((folder / "metrics.json").read_text())
        assert numbers["about"] == about
        assert numbers["n"] == 20
        assert read_about(folder / "predictions.parquet") == about
        assert evaluate.predictions_of(folder) == folder / "predictions.parquet"
        assert evaluate.predictions_of(tmp_path) is None


class TestImported:
    photos = photo_dataset(4).table

    def write(self, tmp_path, text):
        path = tmp_path / "theirs.csv"
        path.write_text(text, encoding="utf-8")
        return path

    def test_matches_by_id_and_measures(self, tmp_path):
        rows = [
            f"{row.id},{row.latitude},{row.longitude}"
            for row in self.photos.iloc[::-1].itertuples()
        ]
        path = self.write(
            tmp_path, "\ufeffid,Latitude, longitude\n" + "\n".join(rows[:3]) + "\nzz,0,0\n"
        )
        frame = imported_predictions(read_guesses(path), self.photos)
        assert frame["id"].tolist() == self.photos["id"].tolist()[1:]
        assert frame["error_km"].max() == pytest.approx(0, abs=1e-6)
        assert frame.attrs == {"unmatched": 1, "unanswered": 1}
        assert frame["radius_50_km"].isna().all()
        report = summarise(frame, resamples=20)
        assert report["coverage"] == {"50": None, "90": None}
        assert report["geoscore"] == pytest.approx(5000)
        json.dumps(report, allow_nan=False)

    def test_a_predictions_table_as_csv_gives_its_guesses_not_its_truth(self):
        frame = synthetic_predictions(4, candidates=False)
        guesses = read_guesses(frame.to_csv(index=False).encode())
        assert guesses["latitude"].tolist() == pytest.approx(frame["predicted_latitude"])
        assert guesses["longitude"].tolist() == pytest.approx(frame["predicted_longitude"])

    def test_ids_may_have_a_folder_and_an_extension(self, tmp_path):
        path = self.write(tmp_path, "file,lat,lng\na/b/test00001.jpg,10,350\n")
        frame = imported_predictions(read_guesses(path), self.photos)
        assert frame["id"].tolist() == ["test00001"]
        assert frame["predicted_longitude"].tolist() == [-10]

    @pytest.mark.parametrize(
        "text",
        [
            "id,latitude,longitude\n1,48.5S,2.25W\n",
            "id;latitude;longitude\n1;-48,5;-2,25\n",
            "id,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\n1,48.5,S,2.25,W\n",
            'id,latitude,longitude\n1,"48° 30\' 0"" S","2° 15\' 0"" W"\n',
        ],
    )
    def test_degrees_are_read_as_in_a_csv_of_positions(self, text):
        guess = read_guesses(text.encode()).iloc[0]
        assert guess.tolist() == ["1", -48.5, -2.25]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,x,y\n1,2,3\n", "no column 'latitude', 'longitude' in the header 'id,x,y'"),
            ("id,latitude,longitude\n1,95,3\n", "row 2: the latitude '95'"),
            ("id,latitude,longitude\n1,5,3\n2,,3\n", "row 3: the latitude ''"),
            ("id,latitude,longitude\n1,5,nan\n", "row 2: the longitude 'nan'"),
            ("id,latitude,longitude\n1,5,inf\n", "the longitude 'inf'"),
            ("id,latitude,longitude\n1,5,3\n1,5,4\n", "'1' occurs twice"),
            ("", "is empty"),
            ("id,latitude,longitude\n1,2,3,4,5\n1,2\n1,2,3,4,5,6,7\n", "not a table"),
        ],
    )
    def test_errors_of_a_csv_name_row_and_column(self, tmp_path, text, message):
        with pytest.raises(PredictionsError, match=message):
            read_guesses(self.write(tmp_path, text))

    def test_bytes_that_are_not_text_are_an_error(self):
        with pytest.raises(PredictionsError, match="UTF-8"):
            read_guesses(b"\xff\xfe\x00id")
        with pytest.raises(PredictionsError, match="not a text file"):
            read_guesses(b"id,latitude\x00")

    def test_nothing_matches(self, tmp_path):
        path = self.write(tmp_path, "id,latitude,longitude\nother,1,2\n")
        with pytest.raises(PredictionsError, match=r"'test00000'.*'other'"):
            imported_predictions(read_guesses(path), self.photos)
        empty = self.write(tmp_path, "id,latitude,longitude\n")
        with pytest.raises(PredictionsError, match="no guesses"):
            imported_predictions(read_guesses(empty), self.photos)
