"""A gallery: places encoded once, against which every photo is compared with one matrix product.

On disk the normalised matrix is float16 (102 MB for 100,000 places), in memory float32. Half
precision moves a cosine by less than 0.0003, which is enough to swap neighbours in the ranking;
`Gallery.top_k` therefore encodes the few places that could be affected again, in float32, and so
gives the ranking of the exact matrix. How few is known: the largest rounding error of a row is
measured when the matrix is made.
"""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from geoclip_core.atomic_writes import atomic_file
from geoclip_core.model.location_encoder import LocationEncoder

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
