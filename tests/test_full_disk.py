"""A full disk or a vanished folder is one true sentence at every write; what was saved loads.

Downloads are tested with the hub, in tests/hub.
"""

import builtins
import errno
import io
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.importing import import_photos
from geoclip_core.errors import SaveError
from geoclip_core.evaluation.predictions import read_predictions, write_predictions
from geoclip_core.jobs import JobError
from geoclip_core.model import checkpoint
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.checkpoint import load_checkpoint, save_checkpoint
from geoclip_core.training import state
from geoclip_core.training.embeddings import EmbeddingCache, Embeddings
from geoclip_core.training.runs import Run
from geoclip_core.training.state import begin_state, finish_state, read_state
from tests.data.geotagged import write_photo
from tests.evaluation.synthetic_predictions import synthetic_predictions
from tests.model.test_geolocation import _model

FULL = "No space left on device"


@pytest.fixture
def full_disk(monkeypatch):
    """``full_disk()``: from now on every file that is opened to be written finds no space."""

    def refuse_to_write(real):
        def opened(file, mode="r", *arguments, **options):
            if set(mode) & set("wax+"):
                raise OSError(errno.ENOSPC, FULL, str(file))
            return real(file, mode, *arguments, **options)

        return opened

    def no_tensors(tensors, path, *_, **__):
        raise SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)")

    def no_table(table, path, *_, **__):
        raise OSError(errno.ENOSPC, f"[Errno 28] Error writing bytes to file. {FULL}")

    def fill():
        monkeypatch.setattr(io, "open", refuse_to_write(io.open))
        monkeypatch.setattr(builtins, "open", refuse_to_write(builtins.open))
        for module in (checkpoint, state, safetensors.torch):
            monkeypatch.setattr(module, "save_file", no_tensors)
        monkeypatch.setattr(pq, "write_table", no_table)

    return fill


class Writer:
    """Something that is saved: ``first`` before the disk is full, ``again`` on the full disk."""

    def __init__(self, place):
        self.place = place

    def first(self):
        self.again()


class CheckpointWriter(Writer):
    def again(self):
        save_checkpoint(self.place / "c", _model("regression", False), {"n": 1})

    def load(self):
        assert load_checkpoint(self.place / "c", with_backbone=False)


class MetricsWriter(Writer):
    def first(self):
        self.run = Run.create(self.place / "runs", "x", {}, "fit")
        self.run.log_metrics({"step": 1, "train/loss": 1.0})

    def again(self):
        self.run.log_metrics({"step": 2, "train/loss": 1.0})

    def load(self):
        assert [row["step"] for row in self.run.metrics()] == [1]


class StatusWriter(MetricsWriter):
    def again(self):
        self.run.update(progress=0.5, phase="later")

    def load(self):
        assert self.run.recorded_status.phase == ""


class StateWriter(Writer):
    step = 0

    def again(self):
        self.step += 1
        begin_state(self.place / "resume", self.step)
        finish_state(self.place / "resume", self.step, {"a": torch.ones(2)}, {"loss": 1.0})

    def load(self):
        assert read_state(self.place / "resume").step == 1


class CacheWriter(Writer):
    def first(self):
        self.cache = EmbeddingCache.__new__(EmbeddingCache)
        self.cache.width, self.cache._photos = 4, np.arange(6, dtype=np.uint8).reshape(3, 2)
        self.cache._home = self.place / "cache"
        self.cache.place = self.cache._home / "photos"
        self.part = Embeddings(np.ones((3, 4), np.float16), {})
        self.cache.write_shard(0, self.part)
        self.cache.join()

    def again(self):
        self.cache.write_shard(0, self.part)

    def load(self):
        assert np.array_equal(self.cache.find().values, self.part.values)


class PredictionsWriter(Writer):
    def again(self):
        path = self.place / "predictions.parquet"
        write_predictions(synthetic_predictions(5), path, {"model": "m"})

    def load(self):
        assert len(read_predictions(self.place / "predictions.parquet")) == 5


class ImportWriter(Writer):
    def first(self):
        for number in range(2):
            photo = self.place.parent / f"photos-{number}" / f"{number}.jpg"
            write_photo(photo, (48.2, 16.4), seed=number)
        import_photos(self.place.parent / "photos-0", self.place / "set", workers=1)

    def again(self):
        import_photos(self.place.parent / "photos-1", self.place / "set", workers=1)

    def load(self):
        assert len(read_dataset(self.place / "set")) == 1


class CalibrationWriter(Writer):
    def again(self):
        from geoclip_core.files import write_atomically

        text = Calibration(1.2, 300.0, {"50": 0.9}, 40, "here").to_json()
        write_atomically(self.place / "calibration.json", text)

    def load(self):
        assert Calibration.read(self.place / "calibration.json").n == 40


WRITERS = [
    *(CheckpointWriter, MetricsWriter, StatusWriter, StateWriter, CacheWriter),
    *(PredictionsWriter, ImportWriter, CalibrationWriter),
]


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_sentence_and_the_last_good_state_loads(kind, place, full_disk):
    writer = kind(place)
    writer.first()
    full_disk()
    with pytest.raises(
        SaveError, match=r"the disk of .* is full: make room and try again"
    ) as error:
        writer.again()
    assert str(error.value).count("\n") == 0
    assert str(place) in str(error.value)
    writer.load()


@pytest.mark.parametrize("kind", [MetricsWriter, StatusWriter])
def test_a_run_whose_folder_vanished_is_one_sentence(kind, place):
    writer = kind(place)
    writer.first()
    moved = writer.run.folder.rename(place / "moved")
    with pytest.raises((SaveError, JobError), match=r"does not exist") as error:
        writer.again()
    assert str(writer.run.folder) in str(error.value)
    writer.run = Run(moved)
    writer.load()


def test_a_state_whose_folder_vanished_is_one_sentence(place):
    writer = StateWriter(place)
    writer.first()
    kept = shutil.copytree(place / "resume", place / "kept")
    begin_state(place / "resume", 2)
    shutil.rmtree(place / "resume")
    with pytest.raises(SaveError, match=r"the folder .* does not exist any more"):
        finish_state(place / "resume", 2, {"a": torch.ones(2)}, {"loss": 1.0})
    assert read_state(kept).step == 1


@pytest.mark.parametrize("kind", [CheckpointWriter, PredictionsWriter, CalibrationWriter])
def test_what_is_written_whole_makes_its_folder_again(kind, place):
    writer = kind(place)
    writer.first()
    shutil.rmtree(place)
    writer.again()
    writer.load()
