"""GeoCLIP: compares a photo with every place of a gallery by the cosine of their vectors.

Vivanco Cepeda, Nayak and Shah, "GeoCLIP: Clip-Inspired Alignment between Locations and Images for
Effective Worldwide Geo-localization", NeurIPS 2023. The softmax over exp(logit scale) × cosine
gives each place of the gallery a probability.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.earth.sphere import EARTH_RADIUS_KM, unit_vectors
from geoclip_core.errors import CheckpointError
from geoclip_core.files import cache_folders
from geoclip_core.geoclip.gallery import Gallery, open_gallery
from geoclip_core.geoclip.weights import GeoClipRelease, read_release, tower_digest
from geoclip_core.model.calibration import Calibration, read_user_calibration, save_user_calibration
from geoclip_core.model.domain import Domain
from geoclip_core.model.geoclip_image import (
    GEOCLIP_IMAGE_CONFIG,
    GeoClipImage,
    build_geoclip_image,
    geoclip_folder,
    tower_folder,
)
from geoclip_core.model.geolocation import ContextSource, Estimate
from geoclip_core.model.posterior import Posterior

KIND = "geoclip"
"""Name under which the user's calibrations are saved."""

MERGE_KM = 10.0
"""Places of the gallery in one cube of this size become one point of the posterior: half of the
100,000 are within 400 m of another one, and 5,877 occur twice."""

UNCALIBRATED_BANDWIDTH_KM = 25.0
"""Kernel width without a calibration: the size of a city."""


class GeoClip(nn.Module):
    """The published model, with the interface of `Locatable`.

    It predicts coordinates only: `vocabularies` is empty, and context comes from the map under the
    posterior, not from the photo.

    Args:
        backbone: the image side.
        gallery: the places to choose from.
        logit_scale: natural logarithm of the factor on the cosines.
        calibration: applied by `predict`; None: uncalibrated.
        fingerprint: sixteen hexadecimal digits that identify the weights.

    Raises:
        CheckpointError: the location vectors of photos and places have different widths.
    """

    context_source: ContextSource = "map"
    domain: Domain | None = None

    def __init__(
        self,
        backbone: GeoClipImage,
        gallery: Gallery,
        logit_scale: float,
        *,
        calibration: Calibration | None = None,
        fingerprint: str = "",
    ) -> None:
        super().__init__()
        if backbone.block_widths[-1] != gallery.encoder.width:
            raise CheckpointError(
                f"the image side has blocks of {backbone.block_widths}, "
                f"the location side vectors of {gallery.encoder.width}"
            )
        self.vocabularies: dict[str, Vocabulary] = {}
        self.backbone, self.gallery = backbone, gallery
        self.logit_scale = float(logit_scale)
        self.calibration = calibration
        self.fingerprint = fingerprint
        self._merging = _Merging(gallery.coordinates)

    def queries(self, embedding: Tensor | NDArray[np.floating]) -> Tensor:
        """Return the location vectors (b, d) that are part of backbone embeddings (b, D).

        Raises:
            ValueError: the embeddings have another width.
        """
        values, width = torch.as_tensor(embedding), self.backbone.embedding_width
        if values.ndim != 2 or values.shape[1] != width:
            raise ValueError(f"expected embeddings (b, {width}), got {tuple(values.shape)}")
        device = next(self.gallery.encoder.parameters()).device
        return values[:, -self.gallery.encoder.width :].to(device, torch.float32)

    @torch.no_grad()
    def logits(self, embedding: Tensor | NDArray[np.floating]) -> Tensor:
        """Return exp(logit scale) × cosine (b, n) with every place of the gallery."""
        return float(np.exp(self.logit_scale)) * self.gallery.cosines(self.queries(embedding))

    @torch.no_grad()
    def top_places(
        self, embedding: Tensor | NDArray[np.floating], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the k most probable places as ranked in the paper, including near-duplicates.

        Returns:
            Coordinates (b, k, 2) and probabilities (b, k), best first.
        """
        queries = self.queries(embedding)
        factor = float(np.exp(self.logit_scale))
        indices, cosines = self.gallery.top_k(queries, k)
        total = (factor * self.gallery.cosines(queries)).logsumexp(dim=1, keepdim=True)
        probabilities = (factor * cosines - total).exp()
        return self.gallery.coordinates[indices.cpu().numpy()], probabilities.double().cpu().numpy()

    @torch.no_grad()
    def predict(self, embedding: Tensor | NDArray[np.floating]) -> list[Estimate]:
        """Return one estimate per embedding (b, D), calibrated if the model is; no context."""
        log_weights = self.logits(embedding).double().log_softmax(dim=1).cpu().numpy()
        estimates = []
        for row in log_weights:
            posterior = self._merging.posterior(row)
            if self.calibration is not None:
                posterior = self.calibration.apply(posterior)
            estimates.append(Estimate(posterior, {}))
        return estimates

    def unlikeness(self, embedding: Tensor | NDArray[np.floating]) -> None:
        """Return None: the authors do not publish statistics of their training photos."""

    def weights_hash(self) -> str:
        """Return the fingerprint."""
        return self.fingerprint

    def keep_calibration(self, calibration: Calibration) -> Path:
        """Set a calibration and save it for later loads of these weights; return its file."""
        self.calibration = calibration
        return save_user_calibration(KIND, self.fingerprint, calibration)


class _Merging:
    """Merges neighbouring places of the gallery, so that a posterior has fewer points."""

    def __init__(self, coordinates: NDArray[np.float64]) -> None:
        cubes = np.floor(unit_vectors(coordinates) * (EARTH_RADIUS_KM / MERGE_KM)).astype(np.int64)
        _, cube = np.unique(cubes, axis=0, return_inverse=True)
        self._order = np.argsort(cube.reshape(-1), kind="stable")
        sorted_cubes = cube.reshape(-1)[self._order]
        self._starts = np.flatnonzero(np.diff(sorted_cubes, prepend=-1))
        self._cube_of = np.cumsum(np.diff(sorted_cubes, prepend=-1) != 0) - 1
        self._coordinates = coordinates[self._order]

    def posterior(self, log_weights: NDArray[np.float64]) -> Posterior:
        """Return a posterior of the likeliest place of each cube, with the cube's whole weight."""
        weights = log_weights[self._order]
        highest = np.maximum.reduceat(weights, self._starts)
        first_best = np.full(len(highest), len(weights))
        best = np.flatnonzero(weights == highest[self._cube_of])
        np.minimum.at(first_best, self._cube_of[best], best)
        scaled = np.exp(weights - highest[self._cube_of])
        sums = highest + np.log(np.add.reduceat(scaled, self._starts))
        return Posterior(self._coordinates[first_best], sums, UNCALIBRATED_BANDWIDTH_KM)


def load_geoclip(folder: str | Path | None = None, device: str | torch.device = "cpu") -> GeoClip:
    """Load GeoCLIP with its image tower. Encoding the gallery takes half a minute the first time.

    Args:
        folder: folder of a release; None: the downloaded one.
        device: device of the model.

    Raises:
        CheckpointError: a file is missing or damaged; the message names it and says what to do.
    """
    source = geoclip_folder() if folder is None else Path(folder).expanduser()
    release = read_release(source)
    config = GEOCLIP_IMAGE_CONFIG
    if folder is not None:
        config = replace(config, name=str(source), projection=False)
    backbone = build_geoclip_image(config).to(device).eval()
    encoder = release.location_encoder.to(device)
    fingerprint = _fingerprint(release, tower_folder(source))
    model = GeoClip(
        backbone,
        open_gallery(encoder, release.coordinates, cache_folders().galleries),
        release.logit_scale,
        calibration=read_user_calibration(KIND, fingerprint),
        fingerprint=fingerprint,
    )
    return model.eval()


def _fingerprint(release: GeoClipRelease, tower: Path) -> str:
    """Return digits that change with GeoCLIP's weights, its gallery, or the image tower."""
    digest = hashlib.sha256(f"{release.logit_scale!r} {tower_digest(tower)}".encode())
    digest.update(np.ascontiguousarray(release.coordinates).tobytes())
    for module in (release.image_mlp, release.location_encoder):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
