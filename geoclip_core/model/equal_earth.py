"""The Equal Earth projection (Šavrič, Patterson and Jenny, IJGIS 2018), as GeoCLIP scales it."""

import math

import torch
from torch import Tensor

# Coefficients of the projection's polynomial, table 1 of the paper.
_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796

GEOCLIP_SCALE = 66.50336
"""GeoCLIP multiplies x and y by this number and divides them by 180."""


def equal_earth(coordinates: Tensor) -> Tensor:
    """Project coordinates onto the Equal Earth plane of the unit sphere.

    Args:
        coordinates: (..., 2) latitude and longitude in degrees.

    Returns:
        (..., 2) x and y. The whole Earth spans ±2.7066 by ±1.3174.
    """
    latitude, longitude = torch.deg2rad(coordinates).unbind(-1)
    root3 = math.sqrt(3.0)
    theta = torch.asin(torch.sin(latitude) * (root3 / 2))
    slope = 3 * (9 * _A4 * theta**8 + 7 * _A3 * theta**6 + 3 * _A2 * theta**2 + _A1)
    x = 2 * root3 * longitude * torch.cos(theta) / slope
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    return torch.stack([x, y], dim=-1)


def geoclip_plane(coordinates: Tensor) -> Tensor:
    """Equal Earth x and y (..., 2) in the units of GeoCLIP's encoder, about ±1 by ±0.49."""
    return equal_earth(coordinates) * GEOCLIP_SCALE / 180
