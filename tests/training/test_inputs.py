"""Inputs of a training: augmentation and the photo loader."""

import numpy as np
import pytest
import torch
from PIL import Image

from geoclip_core.model.backbone import Preprocessing
from geoclip_core.training.inputs import PhotoLoader, augmented


def _half_red(width=80, height=60):
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] = (200, 40, 40)
    pixels[:, width // 2 :] = (40, 40, 200)
    return Image.fromarray(pixels)


def test_the_same_random_state_gives_the_same_copy():
    photo = _half_red()
    one, same, other = (
        np.asarray(augmented(photo, np.random.default_rng(seed), 1.0)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize("seed", range(60))
def test_photos_are_never_flipped(seed):
    copy = np.asarray(augmented(_half_red(), np.random.default_rng(seed), 1.5)).astype(int)
    redness = (copy[..., 0] - copy[..., 2]).mean(0)
    assert redness[0] >= redness[-1] - 1  # never blue before red


def test_most_of_the_photo_is_kept_and_the_original_is_untouched():
    photo = _half_red(200, 100)
    before = photo.tobytes()
    sizes = np.array([augmented(photo, np.random.default_rng(s), 1.0).size for s in range(40)])
    assert (sizes[:, 0] >= 120 - 1).all()
    assert (sizes[:, 1] >= 60 - 1).all()
    assert len(set(map(tuple, sizes))) > 20
    assert photo.tobytes() == before


def test_strength_zero_returns_the_photo():
    photo = _half_red()
    assert augmented(photo, np.random.default_rng(0), 0.0) is photo


def test_a_photo_of_one_pixel_can_be_augmented():
    copy = augmented(Image.new("RGB", (1, 1), (9, 9, 9)), np.random.default_rng(0), 2.0)
    assert copy.size == (1, 1)


VIEWS = Preprocessing(views=((32, 48), (32, 32)))


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(12):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def _steps(*batches):
    return [[np.array(part) for part in parts] for parts in batches]


def test_photos_come_in_order_with_any_number_of_threads(paths):
    steps = _steps(([3, 1], [2]), ([0, 7, 8],), ([11],))
    one = list(PhotoLoader(paths, VIEWS, 1.0, seed=4, workers=1).epoch(2, steps))
    many = list(PhotoLoader(paths, VIEWS, 1.0, seed=4, workers=4).epoch(2, steps))
    assert [[part.rows.tolist() for part in parts] for parts in one] == [
        [[3, 1], [2]],
        [[0, 7, 8]],
        [[11]],
    ]
    assert [view.shape for view in one[1][0].inputs] == [(3, 3, 32, 48), (3, 3, 32, 32)]
    for first, second in zip(one, many, strict=True):
        for a, b in zip(first, second, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))


def test_augmentation_depends_on_seed_epoch_and_row_alone(paths):
    loader = PhotoLoader(paths, VIEWS, 1.0, seed=4, workers=2)
    early = next(loader.epoch(1, _steps(([5, 6],))))[0].inputs[0][1]
    late = list(loader.epoch(1, _steps(([0],), ([6],))))[1][0].inputs[0][0]
    assert torch.equal(early, late)
    other_epoch = next(loader.epoch(2, _steps(([6],))))[0].inputs[0][0]
    assert not torch.equal(early, other_epoch)


def test_without_augmentation_pixels_equal_those_of_inference(paths):
    loaded = next(PhotoLoader(paths, VIEWS, 0.0, seed=4, workers=2).epoch(0, _steps(([2],))))[0]
    wanted = VIEWS.pixels(Image.open(paths[2]))
    assert all(torch.equal(a[0], b) for a, b in zip(loaded.inputs, wanted, strict=True))


def test_an_unreadable_photo_is_left_out_of_its_step(paths):
    paths[4].write_text("no photo")
    loaded = next(PhotoLoader(paths, VIEWS, 1.0, seed=4, workers=2).epoch(0, _steps(([3, 4, 5],))))[
        0
    ]
    assert loaded.rows.tolist() == [3, 5]
    assert len(loaded.inputs[0]) == 2


def test_many_unreadable_photos_are_an_error(paths):
    for path in paths[1:]:
        path.write_text("no photo")
    with pytest.raises(ValueError, match="11 of 12 photos cannot be read"):
        list(PhotoLoader(paths, VIEWS, 1.0, seed=4, workers=2).epoch(0, _steps((list(range(12)),))))
