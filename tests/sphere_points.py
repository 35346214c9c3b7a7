"""Points on the sphere for tests."""

import math

import numpy as np
from numpy.typing import NDArray


def fibonacci_sphere(count: int) -> NDArray[np.float64]:
    """Return points (count, 2) that are spread evenly (Fibonacci lattice, González 2010)."""
    index = np.arange(count)
    latitude = np.degrees(np.arcsin(1 - (2 * index + 1) / count))
    golden_angle = 180 * (3 - math.sqrt(5))
    return np.stack([latitude, (index * golden_angle + 180) % 360 - 180], axis=-1)
