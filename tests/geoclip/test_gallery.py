import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from geoclip_core.geoclip import gallery as gallery_module
from geoclip_core.geoclip.gallery import (
    Gallery,
    GalleryError,
    LocationEncoder,
    encode,
    encode_gallery,
    equal_earth,
    gallery_key,
    geoclip_plane,
    open_gallery,
)
from tests.geoclip.geoclip_files import random_coordinates


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return LocationEncoder((1.0, 4.0), frequencies=16, hidden=24, width=32).eval()


@pytest.fixture
def coordinates():
    return random_coordinates(3000)


def test_ranking_equals_float32_where_float16_is_not_exact_enough(encoder, coordinates):
    crowded = np.concatenate([coordinates, coordinates[:500] * 0.999])
    gallery = encode_gallery(encoder, crowded)
    exact = encode(encoder, torch.from_numpy(crowded).float())
    torch.manual_seed(1)
    queries = normalize(exact[:60] + 0.02 * torch.randn(60, 32), dim=1)
    cosines_of_all = queries @ exact.T
    expected = cosines_of_all.topk(10, dim=1).values
    indices, cosines = gallery.top_k(queries, 10)
    # Rank by rank, up to the last digit of float32.
    torch.testing.assert_close(cosines, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(cosines_of_all.gather(1, indices), expected, atol=1e-6, rtol=0)
    halves = gallery.cosines(queries).topk(10, dim=1).indices
    loss = (expected - cosines_of_all.gather(1, halves)).abs().max()
    assert loss > 3e-6, "float16 alone ranks equally well here, so this test shows nothing"


def test_cosines_ignore_the_length_of_a_query(encoder, coordinates):
    gallery = encode_gallery(encoder, coordinates)
    query = torch.randn(2, 32)
    torch.testing.assert_close(gallery.cosines(query), gallery.cosines(7 * query))


def test_a_gallery_is_encoded_once(encoder, coordinates, tmp_path, monkeypatch):
    seen = []
    first = open_gallery(encoder, coordinates, tmp_path, lambda done, total: seen.append(done))
    assert seen == [2048, 3000]
    monkeypatch.setattr(gallery_module, "encode_gallery", None)
    again = open_gallery(encoder, coordinates, tmp_path)
    assert torch.equal(first.matrix, again.matrix)
    assert again.rounding_error == first.rounding_error


def test_other_weights_or_places_have_another_key(encoder, coordinates):
    key = gallery_key(encoder, coordinates)
    assert gallery_key(encoder, coordinates + 1e-9) != key
    with torch.no_grad():
        encoder.branches[0][1].bias[0] += 1e-6
    assert gallery_key(encoder, coordinates) != key


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_a_damaged_file_is_made_again(encoder, coordinates, tmp_path, damage):
    open_gallery(encoder, coordinates, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    expected = open_gallery(encoder, coordinates, tmp_path).matrix
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        path.write_text("not a gallery")
    else:
        encode_gallery(encoder, coordinates[:10]).save(path, "other")
    with pytest.raises(GalleryError):
        Gallery.load(path, gallery_key(encoder, coordinates), encoder, coordinates)
    gallery = open_gallery(encoder, coordinates, tmp_path)
    assert len(gallery) == 3000
    # encoded twice and rounded to float16: one place may round to the other neighbour
    torch.testing.assert_close(gallery.matrix, expected, rtol=1e-3, atol=1e-4)
    assert path.stat().st_size == len(whole)


def test_a_folder_that_cannot_be_written_to_gives_only_a_warning(encoder, coordinates, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(UserWarning, match="could not be saved"):
        gallery = open_gallery(encoder, coordinates, blocked / "galleries")
    assert len(gallery) == 3000


@pytest.mark.parametrize("k", [0, 3001])
def test_k_must_fit(encoder, coordinates, k):
    with pytest.raises(ValueError, match="between 1 and 3000"):
        encode_gallery(encoder, coordinates).top_k(torch.randn(1, 32), k)


def test_the_corners_of_the_map_are_those_of_the_published_projection():
    corners = torch.tensor([[0.0, 180.0], [90.0, 0.0], [-90.0, 0.0], [0.0, 0.0]])
    expected = [[2.7066299836, 0.0], [0.0, 1.3173627591], [0.0, -1.3173627591], [0.0, 0.0]]
    np.testing.assert_allclose(equal_earth(corners).numpy(), expected, atol=1e-6)


def test_a_pole_is_a_line_more_than_half_as_long_as_the_equator():
    x = equal_earth(torch.tensor([[90.0, 180.0], [0.0, 180.0]]))[:, 0]
    # Šavrič et al. 2018: pole line 0.59247 of the equator.
    assert float(x[0] / x[1]) == pytest.approx(0.59247, abs=2e-4)


def test_the_projection_preserves_areas():
    """The determinant of the projection is cos(latitude) everywhere: equal areas, R = 1."""
    rng = np.random.default_rng(0)
    points = torch.tensor(np.c_[rng.uniform(-85, 85, 50), rng.uniform(-175, 175, 50)])
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(equal_earth, point) for point in points]
    ) * (180 / np.pi)
    determinant = torch.linalg.det(jacobian).abs()
    torch.testing.assert_close(
        determinant, torch.cos(torch.deg2rad(points[:, 0])), atol=2e-6, rtol=2e-6
    )


def test_geoclip_scales_the_projection():
    plane = geoclip_plane(torch.tensor([[0.0, -180.0]]))
    assert float(plane[0, 0]) == pytest.approx(-2.7066299836 * 66.50336 / 180, abs=1e-6)
