"""Calibration uses only validation photos, corrects radii, and is saved in the checkpoint."""

import numpy as np
import pytest

from geoclip_core.evaluation import calibrate
from geoclip_core.evaluation.evaluate import predict_in_shards
from geoclip_core.evaluation.radii import inside_radius
from geoclip_core.model.calibration import Calibration
from tests.training.fake_model import FakeModel, embeddings_of, photo_dataset


def fit(model=None, n=120):
    photos = photo_dataset(n, "val")
    return calibrate.calibrate(model or FakeModel(), photos, embeddings_of(photos))


@pytest.fixture(scope="module")
def result():
    return fit()


@pytest.mark.slow
def test_calibrated_radii_have_the_stated_coverage_on_new_photos(result, tmp_path):
    photos = photo_dataset(500, "test", seed=9)
    model = FakeModel(calibration=result.calibration)
    frame = predict_in_shards(model, photos, embeddings_of(photos, seed=7), tmp_path)
    inside = {mass: hits.mean() for mass, hits in inside_radius(frame).items()}
    assert inside["50"] == pytest.approx(0.5, abs=0.12)  # 120 photos fitted, 500 judged
    assert inside["90"] == pytest.approx(0.9, abs=0.07)
    before = inside_radius(result.before)
    assert before["50"].mean() < 0.4  # the fake model is overconfident


def test_calibration_raises_the_density_at_the_truth(result):
    numbers = calibrate.summary(result)
    assert numbers["after"]["log_density"] > numbers["before"]["log_density"]
    assert set(numbers["cross_validated_coverage"]) == {"50", "90"}


@pytest.mark.parametrize("split", ["train", "test", "buffer"])
def test_photos_of_other_splits_are_an_error(split):
    photos = photo_dataset(30, split)
    with pytest.raises(calibrate.CalibrationError, match=split):
        calibrate.calibrate(FakeModel(), photos, embeddings_of(photos))


def test_too_few_photos():
    with pytest.raises(calibrate.CalibrationError, match="at least 10"):
        fit(n=9)


def test_memorised_photos_are_an_error():
    photos = photo_dataset(30, "val")
    with pytest.raises(calibrate.CalibrationError, match="trained on these photos"):
        calibrate.calibrate(FakeModel(), photos, photos.coordinates)


def test_the_model_keeps_its_calibration_even_if_prediction_fails(monkeypatch):
    model = FakeModel(calibration=Calibration(temperature=3.0))
    fit(model, n=20)
    assert model.calibration.temperature == 3.0

    def fails(self, embedding):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FakeModel, "predict", fails)
    with pytest.raises(RuntimeError):
        fit(model, n=20)
    assert model.calibration.temperature == 3.0


def test_an_old_calibration_has_no_influence():
    once = fit(n=40).calibration
    again = fit(FakeModel(calibration=once), n=40).calibration
    assert again.temperature == pytest.approx(once.temperature)
    assert again.bandwidth_km == pytest.approx(once.bandwidth_km)
    assert again.radius_scale == pytest.approx(once.radius_scale)
    assert again.coverage == pytest.approx(once.coverage)
    assert (again.n, again.source) == (once.n, once.source)


def test_large_splits_are_thinned_out(monkeypatch):
    monkeypatch.setattr(calibrate, "MAX_FIT_PHOTOS", 20)
    photos = photo_dataset(60, "val")
    result = calibrate.calibrate(FakeModel(), photos, embeddings_of(photos))
    assert len(result.before) == 20
    assert result.before["id"].tolist() == photos.table["id"].tolist()[::3]


def test_the_checkpoint_gets_calibration_diagram_and_card(result, tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# A model\n\nWhat it is.\n", encoding="utf-8")
    calibrate.save_calibration(tmp_path, result)
    text = card.read_text(encoding="utf-8")
    assert text.startswith("# A model\n\nWhat it is.\n")
    assert "truth inside the 90 % radius" in text
    assert "(calibration.svg)" in text
    assert Calibration.from_json((tmp_path / "calibration.json").read_text()) == result.calibration
    svg = (tmp_path / "calibration.svg").read_text()
    assert svg.count("<polyline") == 4
    assert "nan" not in svg
    calibrate.save_calibration(tmp_path, result)
    assert card.read_text(encoding="utf-8") == text  # replaced, not added again
    assert not list(tmp_path.glob(".*"))


def test_a_wrong_number_of_embeddings_is_an_error():
    with pytest.raises(calibrate.CalibrationError, match="5 embeddings for 20"):
        calibrate.calibrate(FakeModel(), photo_dataset(20, "val"), np.zeros((5, 2)))
