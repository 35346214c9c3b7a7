import numpy as np
import pytest
import torch

from geoclip_core.model.equal_earth import equal_earth, geoclip_plane


def test_the_corners_of_the_map_are_those_of_the_published_projection():
    corners = torch.tensor([[0.0, 180.0], [90.0, 0.0], [-90.0, 0.0], [0.0, 0.0]])
    expected = [[2.7066299836, 0.0], [0.0, 1.3173627591], [0.0, -1.3173627591], [0.0, 0.0]]
    np.testing.assert_allclose(equal_earth(corners).numpy(), expected, atol=1e-6)


def test_a_pole_is_a_line_more_than_half_as_long_as_the_equator():
    x = equal_earth(torch.tensor([[90.0, 180.0], [0.0, 180.0]]))[:, 0]
    # Šavrič et al. 2018: pole line 0.59247 of the equator.
    assert float(x[0] / x[1]) == pytest.approx(0.59247, abs=2e-4)


def test_it_keeps_areas():
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


def test_geoclip_scales_it():
    plane = geoclip_plane(torch.tensor([[0.0, -180.0]]))
    assert float(plane[0, 0]) == pytest.approx(-2.7066299836 * 66.50336 / 180, abs=1e-6)
