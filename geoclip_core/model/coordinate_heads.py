"""Coordinate heads trained by gradient descent: "regression" and "geocells".

`CoordinateHead` is the interface of all heads; the head "bank" is in `bank_heads`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from scipy.special import gammaincinv
from torch import Tensor, nn

from geoclip_core.checks import NotNegative
from geoclip_core.earth.geocells import Geocells
from geoclip_core.earth.sphere import (
    EARTH_RADIUS_KM,
    GEOSCORE_SCALE_KM,
    coordinates_of,
    destination,
    haversine_km,
    pairwise_km,
    spherical_mean,
    unit_vectors,
)
from geoclip_core.model.calibration import Calibration, Density
from geoclip_core.model.losses import distance_smoothed_cross_entropy, great_circle_km
from geoclip_core.model.posterior import HALF_CIRCUMFERENCE_KM, MOST_ANCHORS, Anchors, Posterior

RING_QUANTILES = (1 / 7, 3 / 7, 5 / 7, 13 / 14)
"""Share of the mass inside each of the rings that represent the spread around the point."""
RING_POINTS = 8  # points on each ring
LARGEST_OFFSET = 3.0
"""Largest offset in radii of the cell; places farther away belong to another cell."""

MAX_CELLS = 200_000
Hidden = Annotated[int, Interval(ge=0, le=2**16)]
"""Width of a hidden layer; 0 for none."""
Dropout = Annotated[float, Interval(ge=0, lt=1)]

HeadOutput = TypeVar("HeadOutput")


class CoordinateHead(nn.Module, ABC, Generic[HeadOutput]):
    """Base class of the heads "regression", "geocells" and "bank".

    A joined vector is the normalised embedding, followed by the projected context logits if the
    model uses context; `block_widths` are the widths of its blocks. `HeadOutput` is the type that
    `forward` returns and the other methods take.
    """

    def __init__(self, block_widths: Sequence[int]) -> None:
        super().__init__()
        self.block_widths = tuple(int(width) for width in block_widths)
        self.input_width = sum(self.block_widths)

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) beside `block_widths` that build the same head again."""

    @abstractmethod
    def forward(self, joined: Tensor) -> HeadOutput:
        """Compute the output for joined vectors (b, input_width)."""

    @abstractmethod
    def loss(self, output: HeadOutput, coordinates: Tensor) -> Tensor:
        """Return the scalar loss against true coordinates (b, 2) in degrees."""

    @abstractmethod
    def answers(self, output: HeadOutput) -> Tensor:
        """Return the best points (b, 2) in degrees, faster than from posteriors."""

    @abstractmethod
    def raw_posteriors(self, output: HeadOutput) -> list[Posterior]:
        """Return one uncalibrated posterior per photo."""

    def check_weights(self) -> None:
        """Check that the loaded weights can give a posterior: places on the Earth, sizes above 0.

        Raises:
            ValueError: naming the weights that cannot.
        """

    def start_from(self, coordinates: NDArray[np.float64], geocells: Geocells | None) -> None:
        """Initialise the head from the training set; does nothing unless a head overrides it.

        Args:
            coordinates: (n, 2) of the training photos, in degrees.
            geocells: cells made from them, for the head "geocells".
        """

    def posteriors(
        self,
        output: HeadOutput,
        calibration: Calibration | None = None,
        prior: Density | None = None,
    ) -> list[Posterior]:
        """Return one posterior per photo, calibrated if a calibration is given.

        `prior` is the density of the training photos, for `Calibration.apply`.
        """
        raw = self.raw_posteriors(output)
        if calibration is None:
            return raw
        return [calibration.apply(posterior, prior) for posterior in raw]


@dataclass(frozen=True)
class RegressionOutput:
    """Directions (b, 3), not of length 1, and logarithms (b,) of the distance scale in km."""

    vectors: Tensor
    log_scales: Tensor


class RegressionHead(CoordinateHead[RegressionOutput]):
    """Predicts a direction in space, so that date line and poles need no special handling.

    The spread around the point has a density ∝ exp(−d / s); s is predicted for each photo.

    Args:
        block_widths: widths of the blocks of the joined vector.
        hidden: width of a hidden layer; 0 for none.
        dropout: share of the last layer's inputs dropped in training.
    """

    centre: Tensor
    extent_km: Tensor

    def __init__(
        self, block_widths: Sequence[int], hidden: Hidden = 0, dropout: Dropout = 0.0
    ) -> None:
        super().__init__(block_widths)
        self.hidden, self.dropout = int(hidden), float(dropout)
        self.trunk, width = trunk(self.input_width, self.hidden, self.dropout)
        self.direction = nn.Linear(width, 3)
        self.scale = nn.Linear(width, 1)
        for layer in (self.direction, self.scale):
            nn.init.normal_(layer.weight, std=0.1 / width**0.5)
            nn.init.zeros_(layer.bias)
        self.register_buffer("centre", torch.tensor([1.0, 0.0, 0.0]))
        self.register_buffer("extent_km", torch.tensor(HALF_CIRCUMFERENCE_KM / 2))

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same head again."""
        return {"hidden": self.hidden, "dropout": self.dropout}

    def check_weights(self) -> None:
        """Check that the loaded spread is above zero.

        Raises:
            ValueError: it is not.
        """
        if not float(self.extent_km) > 0:
            raise ValueError("extent_km must be above zero")

    @torch.no_grad()
    def start_from(self, coordinates: NDArray[np.float64], geocells: Geocells | None) -> None:
        """Start at the mean of the training coordinates (n, 2), with their spread as the unit."""
        mean = spherical_mean(coordinates)
        extent = float(np.sqrt(np.mean(haversine_km(coordinates, mean) ** 2)))
        self.centre.copy_(torch.from_numpy(unit_vectors(mean)))
        self.extent_km.fill_(max(extent, 1.0))

    def forward(self, joined: Tensor) -> RegressionOutput:
        """Compute directions and distance scales of joined vectors (b, input_width)."""
        shared = self.trunk(joined)
        spread = (self.extent_km / EARTH_RADIUS_KM).clamp_max(1.0)
        vectors = self.centre + spread * self.direction(shared)
        log_scales = self.scale(shared).squeeze(1).clamp(-8, 3) + self.extent_km.log()
        return RegressionOutput(vectors, log_scales)

    def loss(self, output: RegressionOutput, coordinates: Tensor) -> Tensor:
        """Return the mean great-circle distance in units of the training spread, plus a scale loss.

        The scale's loss is the negative log likelihood of density exp(−d / s) / (2π s²); it has no
        gradient with respect to the direction.
        """
        distances = great_circle_km(output.vectors, coordinates)
        log_scales = output.log_scales
        spread = distances.detach() / log_scales.exp() + 2 * (log_scales - self.extent_km.log())
        loss: Tensor = (distances / self.extent_km).mean() + 0.1 * spread.mean()
        return loss

    @torch.no_grad()
    def answers(self, output: RegressionOutput) -> Tensor:
        """Return the predicted points (b, 2) in degrees."""
        points: Tensor = coordinates_of(output.vectors)
        return points

    def raw_posteriors(self, output: RegressionOutput) -> list[Posterior]:
        """Return posteriors of the predicted point and rings that represent the spread."""
        centres = coordinates_of(output.vectors.detach().cpu().double()).numpy()
        scales = output.log_scales.detach().cpu().double().exp().numpy()
        # density exp(−d / s) on a plane: the distance has a gamma distribution of shape 2
        radii = gammaincinv(2, RING_QUANTILES)
        bearings = np.arange(RING_POINTS) * (360 / RING_POINTS)
        posteriors = []
        for centre, scale in zip(centres, scales, strict=True):
            rings = np.minimum(radii * scale, HALF_CIRCUMFERENCE_KM * 0.9)
            # every second ring is rotated by half a step to cover more directions
            turned = bearings[None, :] + (180 / RING_POINTS) * (np.arange(len(rings)) % 2)[:, None]
            around = destination(centre, turned, rings[:, None]).reshape(-1, 2)
            points = np.concatenate([centre[None], around])
            weights = np.ones(len(points)) / RING_POINTS
            weights[0] = 0.5
            bandwidth = float(np.clip(0.5 * scale, 1.0, HALF_CIRCUMFERENCE_KM / 4))
            posteriors.append(Posterior(points, np.log(weights), bandwidth))
        return posteriors


def trunk(width: int, hidden: int, dropout: float) -> tuple[nn.Sequential, int]:
    """Build a layer of width `hidden` (0: none) with dropout; return it and its output width."""
    layers: list[nn.Module] = []
    if hidden:
        layers = [nn.Linear(width, hidden), nn.GELU()]
        width = hidden
    return nn.Sequential(*layers, nn.Dropout(dropout)), width


def check_places(coordinates: Tensor, name: str) -> None:
    """Check that coordinates (n, 2) in degrees are places on the Earth.

    Raises:
        ValueError: naming the tensor and the first place that is not.
    """
    limits = coordinates.new_tensor([90.0, 360.0])
    wrong = ~(coordinates.abs() <= limits).all(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"row {row} of {name}, {coordinates[row].tolist()}, is no place on Earth")


@dataclass(frozen=True)
class GeocellOutput:
    """Cell logits (b, k), and the photos' factors (b, rank) for the offset network."""

    logits: Tensor
    photo_factors: Tensor


class GeocellHead(CoordinateHead[GeocellOutput]):
    """A classifier over cells and an offset network that all cells share.

    Most cells have only a few dozen photos, too few for an offset network per cell. The shared
    network multiplies factors of the photo with factors of the cell, and moves the cell's centre by
    up to `LARGEST_OFFSET` radii in each direction (OSV-5M, Astruc et al., CVPR 2024, section 5.2).

    Args:
        block_widths: widths of the blocks of the joined vector.
        cells: number of cells k.
        smoothing: decay length of the distance-smoothed targets, in typical distances between
            neighbouring cells; 0 trains on the nearest cell alone.
        hidden: width of a hidden layer; 0 for none.
        dropout: share of the last layer's inputs dropped in training.
        offset_rank: number of factors; 0 answers with the centres of the cells.

    Raises:
        ValueError: `cells` is below 1, or `smoothing` or `offset_rank` below 0.
    """

    centres: Tensor
    radii_km: Tensor
    spacing_km: Tensor
    scores: Tensor

    def __init__(
        self,
        block_widths: Sequence[int],
        cells: Annotated[int, Interval(ge=1, le=MAX_CELLS)],
        smoothing: NotNegative = 0.5,
        hidden: Hidden = 0,
        dropout: Dropout = 0.0,
        offset_rank: Annotated[int, Interval(ge=0, le=4096)] = 32,
    ) -> None:
        super().__init__(block_widths)
        if cells < 1 or smoothing < 0 or offset_rank < 0:
            raise ValueError("cells must be at least 1; smoothing and offset_rank not below 0")
        self.cells, self.smoothing = int(cells), float(smoothing)
        self.hidden, self.dropout = int(hidden), float(dropout)
        self.offset_rank = int(offset_rank)
        self.trunk, width = trunk(self.input_width, self.hidden, self.dropout)
        self.classifier = nn.Linear(width, self.cells)
        nn.init.normal_(self.classifier.weight, std=0.1 / width**0.5)
        nn.init.zeros_(self.classifier.bias)
        if self.offset_rank:
            self.photo_layer = nn.Linear(width, self.offset_rank)
            self.cell_factors = nn.Parameter(torch.randn(self.cells, self.offset_rank) * 0.1)
            self.offset_layer = nn.Linear(self.offset_rank, 2)
            nn.init.zeros_(self.offset_layer.weight)
            nn.init.zeros_(self.offset_layer.bias)
        self.register_buffer("centres", torch.zeros(self.cells, 2))
        self.register_buffer("radii_km", torch.ones(self.cells))
        self.register_buffer("spacing_km", torch.tensor(1.0))
        self.register_buffer("scores", torch.empty(0), persistent=False)
        self._kept_anchors: Anchors | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same head again."""
        return {
            "cells": self.cells,
            "smoothing": self.smoothing,
            "hidden": self.hidden,
            "dropout": self.dropout,
            "offset_rank": self.offset_rank,
        }

    def check_weights(self) -> None:
        """Check that the loaded centres are places, and that the cells have a size.

        Raises:
            ValueError: naming the weights that are wrong.
        """
        check_places(self.centres, "centres")
        if not (float(self.radii_km.min()) > 0 and float(self.spacing_km) >= 0):
            raise ValueError("radii_km must be above zero and spacing_km not below")

    @torch.no_grad()
    def start_from(self, coordinates: NDArray[np.float64], geocells: Geocells | None) -> None:
        """Set cells, radii and log priors from cells made from the training coordinates (n, 2).

        Raises:
            ValueError: there are no cells, or their number differs from the head's.
        """
        if geocells is None or len(geocells) != self.cells:
            given = 0 if geocells is None else len(geocells)
            raise ValueError(f"{given} cells were given, but the head has {self.cells}")
        radii = np.maximum(geocells.radii_km(coordinates), 1.0)
        self.centres.copy_(torch.from_numpy(geocells.centres))
        self.radii_km.copy_(torch.from_numpy(radii))
        distances = pairwise_km(geocells.centres, geocells.centres)
        np.fill_diagonal(distances, np.inf)
        nearest = distances.min(1) if self.cells > 1 else radii
        self.spacing_km.fill_(float(np.median(nearest)))
        counts = np.bincount(geocells.assign(coordinates), minlength=self.cells) + 1.0
        self.classifier.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
        self.scores = torch.empty(0)

    @property
    def tau_km(self) -> float:
        """Decay length of the smoothed targets in km."""
        return self.smoothing * float(self.spacing_km)

    def forward(self, joined: Tensor) -> GeocellOutput:
        """Compute cell logits and photo factors of joined vectors (b, input_width)."""
        shared = self.trunk(joined)
        factors = self.photo_layer(shared) if self.offset_rank else shared[:, :0]
        return GeocellOutput(self.classifier(shared), factors)

    def loss(self, output: GeocellOutput, coordinates: Tensor) -> Tensor:
        """Return the smoothed cross entropy of the cells, plus the true cell's error in radii."""
        with torch.no_grad():
            distances = pairwise_km(coordinates.float(), self.centres)
        cells = distance_smoothed_cross_entropy(output.logits, distances, self.tau_km)
        if not self.offset_rank:
            return cells
        true = distances.argmin(1, keepdim=True)
        vectors = self._vectors(output.photo_factors, true)[:, 0]
        radii = great_circle_km(vectors, coordinates) / self.radii_km[true[:, 0]]
        # grows like a square root, so that photos far outside their cell do not dominate
        offsets: Tensor = 0.5 * (2 * torch.sqrt(1 + radii / 2) - 2).mean()
        return cells + offsets

    @torch.no_grad()
    def answers(self, output: GeocellOutput) -> Tensor:
        """Return the centres (b, 2) with the highest expected GeoScore, moved by their offsets."""
        if len(self.scores) != self.cells:
            distances = pairwise_km(self.centres, self.centres)
            self.scores = torch.exp(-distances / GEOSCORE_SCALE_KM)
        weights = output.logits.float().softmax(1)
        best = (weights @ self.scores).argmax(1, keepdim=True)
        points: Tensor = coordinates_of(self._vectors(output.photo_factors, best)[:, 0])
        return points

    def raw_posteriors(self, output: GeocellOutput) -> list[Posterior]:
        """Return all cells, each moved by its offset, weighted by the classifier."""
        bandwidth = max(float(self.radii_km.median()) / 2, 1.0)
        all_cells = torch.arange(self.cells, device=self.centres.device)
        log_weights = output.logits.detach().cpu().double().log_softmax(1).numpy()
        anchors, posteriors = self._anchors(), []
        with torch.no_grad():
            for row, weights in zip(output.photo_factors, log_weights, strict=True):
                points = coordinates_of(self._vectors(row[None], all_cells[None])[0]).cpu().numpy()
                posteriors.append(Posterior(points, weights, bandwidth, anchors=anchors))
        return posteriors

    def _anchors(self) -> Anchors | None:
        """Return the centres of the cells, the same object as long as they stay."""
        if self.cells > MOST_ANCHORS:
            return None
        centres = self.centres.cpu().double().numpy()
        kept = self._kept_anchors
        if kept is None or not np.array_equal(kept.points, centres):
            kept = self._kept_anchors = Anchors(centres)
        return kept

    def _vectors(self, photo_factors: Tensor, cells: Tensor) -> Tensor:
        """Return directions (b, c, 3) of the centres of cells (b, c), moved by their offsets."""
        centres = self.centres[cells]
        vectors: Tensor = unit_vectors(centres)
        if not self.offset_rank:
            return vectors
        mixed = photo_factors[:, None, :] * (1 + self.cell_factors[cells])
        shift = LARGEST_OFFSET * torch.tanh(self.offset_layer(mixed) / LARGEST_OFFSET)
        shift = shift.float() * (self.radii_km[cells] / EARTH_RADIUS_KM)[..., None]
        longitude = torch.deg2rad(centres[..., 1])
        east = torch.stack([-longitude.sin(), longitude.cos(), torch.zeros_like(longitude)], -1)
        north = torch.linalg.cross(vectors, east, dim=-1)
        moved: Tensor = vectors + shift[..., :1] * east + shift[..., 1:] * north
        return moved
