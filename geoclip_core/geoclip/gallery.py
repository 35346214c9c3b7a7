"""A gallery: places encoded once, against which every photo is compared with one matrix product.

On disk the normalised matrix is float16 (102 MB for 100,000 places), in memory float32. Half
precision moves a cosine by less than 0.0003, which is enough to swap neighbours in the ranking;
`Gallery.top_k` therefore encodes the few places that could be affected again, in float32, and so
gives the ranking of the exact matrix. How few is known: the largest rounding error of a row is
measured when the matrix is made.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
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


DEFAULT_SIGMAS = (2.0**0, 2.0**4, 2.0**8)
"""Standard deviations of the frequencies of the three branches."""


class FourierFeatures(nn.Module):
    """Random Fourier features (Tancik et al., NeurIPS 2020): cosines first, then sines."""

    frequencies: Tensor

    def __init__(self, sigma: float, count: int = 256) -> None:
        super().__init__()
        # Drawn once and then kept: they are weights that are not trained, so they are a buffer.
        self.register_buffer("frequencies", torch.randn(count, 2) * sigma)

    def forward(self, plane: Tensor) -> Tensor:
        """(b, 2) -> (b, 2 × count)."""
        # At σ = 256 the phases reach 1,600 radians, where float32 keeps four decimals. The weights
        # were trained on phases rounded in this order (2π first): another order moves the outcome
        # by more than 1e-5.
        phases = (2 * math.pi * plane) @ self.frequencies.T
        return torch.cat([phases.cos(), phases.sin()], dim=-1)


class LocationBranch(nn.Sequential):
    """One scale of the encoder: Fourier features and a four-layer MLP."""

    def __init__(
        self, sigma: float, frequencies: int = 256, hidden: int = 1024, width: int = 512
    ) -> None:
        super().__init__(
            FourierFeatures(sigma, frequencies),
            nn.Linear(2 * frequencies, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, width),
        )


class LocationEncoder(nn.Module):
    """Coordinates (b, 2) in degrees -> raw location vectors (b, width), the sum of all branches."""

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
            LocationBranch(sigma, frequencies, hidden, width) for sigma in self.sigmas
        )

    def forward(self, coordinates: Tensor) -> Tensor:
        """Location vectors (b, width), not normalised, of coordinates (b, 2) in degrees."""
        plane = geoclip_plane(coordinates)
        # One after the other, as the sum of float32 numbers depends on its order.
        total = torch.zeros(len(plane), self.width, dtype=plane.dtype, device=plane.device)
        for branch in self.branches:
            total = total + branch(plane)
        return total


Progress = Callable[[int, int], None]
"""Called with (places encoded, places in all)."""

ENCODE_BATCH = 2048
_FLOAT32_SLACK = 1e-6
"""Rounding of a float32 cosine of 512 terms, on top of that of the matrix."""


class GalleryError(ValueError):
    """A gallery file is damaged or belongs to another model."""


class Gallery(nn.Module):
    """Encoded places of one location encoder."""

    matrix: Tensor
    places: Tensor

    def __init__(
        self,
        encoder: LocationEncoder,
        coordinates: NDArray[np.float64],
        half: Tensor,
        rounding_error: float,
    ) -> None:
        """Wrap a matrix; `encode_gallery` and `open_gallery` make one.

        Args:
            encoder: what the places were encoded by, kept for exact ranking.
            coordinates: (n, 2) in degrees.
            half: (n, d) float16, rows of length one.
            rounding_error: the largest Euclidean distance of a row from its float32 original.
        """
        super().__init__()
        if len(coordinates) != len(half):
            raise GalleryError(f"{len(coordinates)} coordinates for {len(half)} encoded places")
        self.encoder = encoder
        self.coordinates = coordinates
        self.rounding_error = rounding_error
        self.register_buffer("places", torch.from_numpy(np.ascontiguousarray(coordinates)))
        # One product with a float32 matrix takes 10 ms; unpacking the halves at every query, 90.
        self.register_buffer("matrix", half.float(), persistent=False)
        self.to(next(encoder.parameters()).device)

    def __len__(self) -> int:
        return len(self.coordinates)

    def cosines(self, queries: Tensor) -> Tensor:
        """Cosines (b, n) of query vectors (b, d) of any length with every place."""
        return normalize(queries.float(), dim=1) @ self.matrix.T

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k places most like each query, ranked as in float32.

        Args:
            queries: (b, d) of any length.
            k: how many, 1 to n.

        Returns:
            Indices (b, k) and their float32 cosines (b, k), best first.
        """
        if not 1 <= k <= len(self):
            raise ValueError(f"k must lie between 1 and {len(self)} places, not {k}")
        unit = normalize(queries.float(), dim=1)
        approximate = unit @ self.matrix.T
        last = approximate.topk(k, dim=1).values[:, -1]
        # Any place of the exact top k is at most one rounding error too low, and the k-th best at
        # most one too high.
        floor = last - 2 * (self.rounding_error + _FLOAT32_SLACK)
        indices, cosines = [], []
        for row in range(len(unit)):
            candidates = torch.nonzero(approximate[row] >= floor[row]).squeeze(1)
            places = self.places[candidates].float()
            exact = encode(self.encoder, places) @ unit[row]
            # Stable, so that places given twice keep their order.
            values, order = exact.sort(descending=True, stable=True)
            indices.append(candidates[order[:k]])
            cosines.append(values[:k])
        return torch.stack(indices), torch.stack(cosines)

    def save(self, path: Path, key: str) -> None:
        """Write the matrix, whole or not at all."""
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
            GalleryError: if the file is damaged, or was made by another encoder or of other places.
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
            raise GalleryError(f"{path} is damaged: it holds something else than finite halves")
        return cls(encoder, coordinates, half, error)


@torch.no_grad()
def encode(
    encoder: LocationEncoder, coordinates: Tensor, progress: Progress | None = None
) -> Tensor:
    """Location vectors (n, d) float32 of length one, of coordinates (n, 2) in degrees."""
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
    """Encode coordinates (n, 2); 100,000 take about half a minute on two cores."""
    if not len(coordinates):
        raise GalleryError("a gallery needs at least one place")
    rows = encode(encoder, torch.from_numpy(coordinates).float(), progress).cpu()
    half = rows.half()
    error = max(
        float((part - halves.float()).norm(dim=1).max())
        for part, halves in zip(rows.split(8192), half.split(8192), strict=True)
    )
    return Gallery(encoder, coordinates, half, error)


def gallery_key(encoder: LocationEncoder, coordinates: NDArray[np.float64]) -> str:
    """Sixteen hexadecimal digits that change with the encoder's weights and with the places."""
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
    """The gallery from `folder` if it is there, else encoded now and kept there for the next time.

    A folder that cannot be written to costs the encoding at every start, and nothing else.
    """
    key = gallery_key(encoder, coordinates)
    path = folder / f"{key}.safetensors"
    if path.is_file():
        try:
            return Gallery.load(path, key, encoder, coordinates)
        except GalleryError:
            # It is derived from the model: making it again is the repair.
            path.unlink(missing_ok=True)
    gallery = encode_gallery(encoder, coordinates, progress)
    try:
        gallery.save(path, key)
    except OSError as error:
        warnings.warn(
            f"the encoded gallery could not be kept in {folder} ({error.strerror}): "
            "it will be encoded again at the next start",
            stacklevel=2,
        )
    return gallery
