import numpy as np
import pytest
from PIL import Image

from geoclip_core.model.augmentation import augmented


def _half_red(width=80, height=60):
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] = (200, 40, 40)
    pixels[:, width // 2 :] = (40, 40, 200)
    return Image.fromarray(pixels)


def test_the_same_chance_gives_the_same_copy():
    photo = _half_red()
    one, same, other = (
        np.asarray(augmented(photo, np.random.default_rng(seed))) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize("seed", range(60))
def test_left_stays_left(seed):
    copy = np.asarray(augmented(_half_red(), np.random.default_rng(seed), 1.5)).astype(int)
    redness = (copy[..., 0] - copy[..., 2]).mean(0)
    assert redness[0] >= redness[-1] - 1  # never blue before red


def test_most_of_the_photo_is_kept_and_the_original_is_untouched():
    photo = _half_red(200, 100)
    before = photo.tobytes()
    sizes = np.array([augmented(photo, np.random.default_rng(s)).size for s in range(40)])
    assert (sizes[:, 0] >= 120 - 1).all()
    assert (sizes[:, 1] >= 60 - 1).all()
    assert len(set(map(tuple, sizes))) > 20
    assert photo.tobytes() == before


def test_no_strength_no_change():
    photo = _half_red()
    assert augmented(photo, np.random.default_rng(0), 0.0) is photo


def test_a_single_pixel_survives():
    copy = augmented(Image.new("RGB", (1, 1), (9, 9, 9)), np.random.default_rng(0), 2.0)
    assert copy.size == (1, 1)
