"""GeoCLIP's location encoder, and the gallery: places that are encoded once for all photos.

On disk the normalised matrix is float16 (102 MB for 100,000 places), in memory float32. Half
precision changes a cosine by less than 0.0003, which can swap neighbours in the ranking.
`Gallery.top_k` therefore encodes the candidates again in float32.
"""

import hashlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from geoclip_core.files import atomic_file
from geoclip_core.processes import Progress

GEOCLIP_SCALE = 66.50336
"""GeoCLIP multiplies x and y by this number and divides them by 180."""
DEFAULT_SIGMAS = (2.0**0, 2.0**4, 2.0**8)
"""Standard deviation of the frequencies of each of the three branches."""
ENCODE_BATCH = 2048
_FLOAT32_SLACK = 1e-6
"""Rounding error of a float32 cosine of 512 terms, beside that of the matrix."""
# coefficients of the Equal Earth projection (Šavrič, Patterson & Jenny 2019, table 1)
_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796


class GalleryError(ValueError):
    """A gallery file is damaged or belongs to another model."""


def equal_earth(coordinates: Tensor) -> Tensor:
    """Project coordinates (..., 2) in degrees to Equal Earth x and y (..., 2) of the unit sphere.

    The Earth spans ±2.7066 by ±1.3174 (Šavrič, Patterson & Jenny 2019).
    """
    latitude, longitude = torch.deg2rad(coordinates).unbind(-1)
    root3 = math.sqrt(3.0)
    theta = torch.asin(torch.sin(latitude) * (root3 / 2))
    slope = 3 * (9 * _A4 * theta**8 + 7 * _A3 * theta**6 + 3 * _A2 * theta**2 + _A1)
    x = 2 * root3 * longitude * torch.cos(theta) / slope
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    return torch.stack([x, y], dim=-1)


def geoclip_plane(coordinates: Tensor) -> Tensor:
    """Return Equal Earth x and y (..., 2) in units of GeoCLIP's encoder, about ±1 by ±0.49."""
    return equal_earth(coordinates) * GEOCLIP_SCALE / 180


class FourierFeatures(nn.Module):
    """Random Fourier features (Tancik et al., NeurIPS 2020): cosines first, then sines."""

    frequencies: Tensor

    def __init__(self, sigma: float, count: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(count, 2) * sigma)

    def forward(self, plane: Tensor) -> Tensor:
        """Turn plane coordinates (b, 2) into features (b, 2 × count)."""
        # At σ = 256 the phases reach thousands of radians, where float32 has few decimals. The
        # weights were trained with this order of operations (2π first); another order changes the
        # result by more than 1e-5.
        phases = (2 * math.pi * plane) @ self.frequencies.T
        return torch.cat([phases.cos(), phases.sin()], dim=-1)


class LocationEncoder(nn.Module):
    """Turns coordinates (b, 2) in degrees into location vectors (b, width), summed over branches.

    Raises:
        ValueError: there are no sigmas.
    """

    def __init__(
        self,
        sigmas: Sequence[float] = DEFAULT_SIGMAS,
        *,
        frequencies: int = 256,
        hidden: int = 1024,
        width: int = 512,
    ) -> None:
        super().__init__()
        if not sigmas:
            raise ValueError("a location encoder needs at least one sigma")
        self.sigmas = tuple(float(sigma) for sigma in sigmas)
        self.width = width
        self.branches = nn.ModuleList(
            nn.Sequential(
                FourierFeatures(sigma, frequencies),
                nn.Linear(2 * frequencies, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, width),
            )
            for sigma in self.sigmas
        )

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return location vectors (b, width), not normalised, of coordinates (b, 2) in degrees."""
        plane = geoclip_plane(coordinates)
        # from zero and in this order, because the sum of float32 numbers depends on it
        total = torch.zeros(len(plane), self.width, dtype=plane.dtype, device=plane.device)
        for branch in self.branches:
            total = total + branch(plane)
        return total


class Gallery(nn.Module):
    """Encoded places of one location encoder; made by `encode_gallery` and `open_gallery`.

    Args:
        encoder: the encoder of the places, for exact ranking.
        coordinates: (n, 2) in degrees.
        half: (n, d) float16, rows of length one.
        rounding_error: largest Euclidean distance of a row from its float32 original.

    Raises:
        GalleryError: `coordinates` and `half` have different lengths.
    """

    matrix: Tensor
    places: Tensor

    def __init__(
        self,
        encoder: LocationEncoder,
        coordinates: NDArray[np.float64],
        half: Tensor,
        rounding_error: float,
    ) -> None:
        super().__init__()
        if len(coordinates) != len(half):
            raise GalleryError(f"{len(coordinates)} coordinates for {len(half)} encoded places")
        self.encoder = encoder
        self.coordinates = coordinates
        self.rounding_error = rounding_error
        self.register_buffer("places", torch.from_numpy(np.ascontiguousarray(coordinates)))
        # a product with a float32 matrix takes 10 ms, one with float16 90 ms
        self.register_buffer("matrix", half.float(), persistent=False)
        self.to(next(encoder.parameters()).device)

    def __len__(self) -> int:
        return len(self.coordinates)

    def cosines(self, queries: Tensor) -> Tensor:
        """Return cosines (b, n) of query vectors (b, d), of any length, with every place."""
        return normalize(queries.float(), dim=1) @ self.matrix.T

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the k places with the highest cosine for each query, ranked as in float32.

        Args:
            queries: (b, d) vectors of any length.
            k: number of places, 1 to n.

        Returns:
            Indices (b, k) and their float32 cosines (b, k), best first.

        Raises:
            ValueError: `k` is out of range.
        """
        if not 1 <= k <= len(self):
            raise ValueError(f"k must be between 1 and {len(self)}, not {k}")
        unit = normalize(queries.float(), dim=1)
        approximate = unit @ self.matrix.T
        last = approximate.topk(k, dim=1).values[:, -1]
        # the true top k may be one rounding error too low here, the k-th best one too high
        floor = last - 2 * (self.rounding_error + _FLOAT32_SLACK)
        indices, cosines = [], []
        for row in range(len(unit)):
            candidates = torch.nonzero(approximate[row] >= floor[row]).squeeze(1)
            places = self.places[candidates].float()
            exact = encode(self.encoder, places) @ unit[row]
            # stable, so that duplicate places keep their order
            values, order = exact.sort(descending=True, stable=True)
            indices.append(candidates[order[:k]])
            cosines.append(values[:k])
        return torch.stack(indices), torch.stack(cosines)

    def save(self, path: Path, key: str) -> None:
        """Write the matrix atomically; `key` is from `gallery_key`."""
        with atomic_file(path) as unfinished:
            save_file(
                {"places": self.matrix.cpu().half()},
                unfinished,
                metadata={"key": key, "rounding_error": repr(self.rounding_error)},
            )

    @classmethod
    def load(
        cls, path: Path, key: str, encoder: LocationEncoder, coordinates: NDArray[np.float64]
    ) -> Self:
        """Read what `save` wrote.

        Raises:
            GalleryError: the file is damaged, or its encoder or places are different.
        """
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = stored.metadata() or {}
                half = stored.get_tensor("places")
            error = float(metadata["rounding_error"])
        except (SafetensorError, OSError, KeyError, ValueError) as reason:
            raise GalleryError(f"{path} cannot be read as a gallery: {reason}") from reason
        if metadata.get("key") != key or half.shape != (len(coordinates), encoder.width):
            raise GalleryError(f"{path} belongs to another model")
        if half.dtype != torch.float16 or not torch.isfinite(half).all():
            raise GalleryError(f"{path} is damaged: its numbers are not finite float16")
        return cls(encoder, coordinates, half, error)


@torch.no_grad()
def encode(
    encoder: LocationEncoder, coordinates: Tensor, progress: Progress | None = None
) -> Tensor:
    """Return location vectors (n, d) float32 of length one, of coordinates (n, 2) in degrees."""
    device = next(encoder.parameters()).device
    rows = torch.empty(len(coordinates), encoder.width, device=device)
    for start in range(0, len(coordinates), ENCODE_BATCH):
        batch = coordinates[start : start + ENCODE_BATCH].to(device)
        rows[start : start + len(batch)] = normalize(encoder(batch), dim=1)
        if progress is not None:
            progress(start + len(batch), len(coordinates))
    return rows


def encode_gallery(
    encoder: LocationEncoder,
    coordinates: NDArray[np.float64],
    progress: Progress | None = None,
) -> Gallery:
    """Encode coordinates (n, 2) in degrees; 100,000 take about half a minute on two cores.

    Raises:
        GalleryError: there are no coordinates.
    """
    if not len(coordinates):
        raise GalleryError("a gallery needs at least one place")
    rows = encode(encoder, torch.from_numpy(coordinates).float(), progress).cpu()
    half = rows.half()
    error = max(
        float((part - halves.float()).norm(dim=1).max())
        for part, halves in zip(torch.split(rows, 8192), torch.split(half, 8192), strict=True)
    )
    return Gallery(encoder, coordinates, half, error)


def gallery_key(encoder: LocationEncoder, coordinates: NDArray[np.float64]) -> str:
    """Return sixteen hexadecimal digits that change with the encoder's weights and the places."""
    digest = hashlib.sha256(np.ascontiguousarray(coordinates).tobytes())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def open_gallery(
    encoder: LocationEncoder,
    coordinates: NDArray[np.float64],
    folder: Path,
    progress: Progress | None = None,
) -> Gallery:
    """Read the gallery from `folder`, or encode it and save it there; warn if saving fails."""
    key = gallery_key(encoder, coordinates)
    path = folder / f"{key}.safetensors"
    if path.is_file():
        try:
            return Gallery.load(path, key, encoder, coordinates)
        except GalleryError:
            path.unlink(missing_ok=True)
    gallery = encode_gallery(encoder, coordinates, progress)
    try:
        gallery.save(path, key)
    except OSError as error:
        warnings.warn(
            f"the encoded gallery could not be saved in {folder} ({error.strerror}): "
            "it will be encoded again at the next start",
            stacklevel=2,
        )
    return gallery
