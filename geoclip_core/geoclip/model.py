"""GeoCLIP: a photo and every place of a gallery in one space, compared by their cosine.

Vivanco Cepeda, Nayak and Shah, "GeoCLIP: Clip-Inspired Alignment between Locations and Images for
Effective Worldwide Geo-localization", NeurIPS 2023. The softmax over exp(logit scale) × cosine
gives each place of the gallery a probability.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.earth.sphere import EARTH_RADIUS_KM, unit_vectors
from geoclip_core.errors import CheckpointError
from geoclip_core.files import cache_folders
from geoclip_core.geoclip.gallery import Gallery, Progress, open_gallery
from geoclip_core.geoclip.image import (
    CONFIG,
    NAME,
    GeoClipImage,
    build_geoclip_image,
    geoclip_folder,
    tower_folder,
)
from geoclip_core.geoclip.weights import GeoClipRelease, read_release, tower_digest
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.calibration import Calibration, read_user_calibration, save_user_calibration
from geoclip_core.model.geolocation import ContextSource, Estimate
from geoclip_core.model.posterior import Posterior

KIND = "geoclip"
"""What its calibrations are filed under."""

MERGE_KM = 10.0
"""Places of the gallery that share a cube of this size are one place of the posterior: half of the
100,000 lie within 400 m of another one, and 5,877 are there twice."""

UNCALIBRATED_BANDWIDTH_KM = 25.0
"""Kernel of a place as long as nobody has calibrated the model: a city."""


class GeoClip(nn.Module):
    """The published model behind the same interface as a trained `GeolocationModel`.

    It answers coordinates only: `vocabularies` is empty, and context comes from the map under the
    posterior (`context_source`), not from the photo.
    """

    context_source: ContextSource = "map"

    def __init__(
        self,
        backbone: GeoClipImage | None,
        gallery: Gallery,
        logit_scale: float,
        *,
        name: str = "geoclip",
        backbone_config: BackboneConfig = CONFIG,
        block_widths: tuple[int, ...] | None = None,
        calibration: Calibration | None = None,
        fingerprint: str = "",
    ) -> None:
        """Put the parts together; `load_geoclip` reads them.

        Args:
            backbone: the image side; None serves cached embeddings only.
            gallery: the places that can be answered.
            logit_scale: natural logarithm of the factor on the cosines.
            name: what to call the model.
            backbone_config: how the backbone is built again.
            block_widths: widths of the embedding's blocks, needed without a backbone.
            calibration: temperature and radius, or None.
            fingerprint: sixteen digits that tell these weights from others.
        """
        super().__init__()
        self.vocabularies: dict[str, Vocabulary] = {}
        self.backbone = backbone
        self.backbone_config = backbone_config if backbone is None else backbone.config
        self.block_widths = tuple(block_widths or (backbone.block_widths if backbone else ()))
        if not self.block_widths or self.block_widths[-1] != gallery.encoder.width:
            raise CheckpointError(
                f"the image side gives blocks of {self.block_widths}, "
                f"the location side vectors of {gallery.encoder.width}"
            )
        self.gallery = gallery
        self.logit_scale = float(logit_scale)
        self.name = name
        self.calibration = calibration
        self.fingerprint = fingerprint
        self._merging = _Merging(gallery.coordinates)

    @property
    def embedding_width(self) -> int:
        """Width D of the embeddings that the model reads."""
        return sum(self.block_widths)

    def queries(self, embedding: Tensor | NDArray[np.floating]) -> Tensor:
        """The location vectors (b, d) inside backbone embeddings (b, D)."""
        values = torch.as_tensor(embedding)
        if values.ndim != 2 or values.shape[1] != self.embedding_width:
            raise ValueError(
                f"expected embeddings (b, {self.embedding_width}), got {tuple(values.shape)}"
            )
        device = next(self.gallery.encoder.parameters()).device
        return values[:, -self.gallery.encoder.width :].to(device, torch.float32)

    @torch.no_grad()
    def logits(self, embedding: Tensor | NDArray[np.floating]) -> Tensor:
        """exp(logit scale) × cosine (b, n) with every place of the gallery."""
        return float(np.exp(self.logit_scale)) * self.gallery.cosines(self.queries(embedding))

    @torch.no_grad()
    def top_places(
        self, embedding: Tensor | NDArray[np.floating], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The k most probable places as the paper ranks them, near-duplicates and all.

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
        """One estimate for each embedding (b, D), calibrated if the model is; no context."""
        log_weights = self.logits(embedding).double().log_softmax(dim=1).cpu().numpy()
        estimates = []
        for row in log_weights:
            posterior = self._merging.posterior(row)
            if self.calibration is not None:
                posterior = self.calibration.apply(posterior)
            estimates.append(Estimate(posterior, {}))
        return estimates

    def weights_hash(self) -> str:
        """Return the fingerprint: it covers the image tower even if that is not loaded."""
        return self.fingerprint

    def keep_calibration(self, calibration: Calibration) -> Path:
        """Use a calibration from now on, and at every later load of these weights."""
        self.calibration = calibration
        return save_user_calibration(KIND, self.fingerprint, calibration)


class _Merging:
    """Joins neighbours of the gallery: a posterior has as many points as there are places."""

    def __init__(self, coordinates: NDArray[np.float64]) -> None:
        cubes = np.floor(unit_vectors(coordinates) * (EARTH_RADIUS_KM / MERGE_KM)).astype(np.int64)
        _, cube = np.unique(cubes, axis=0, return_inverse=True)
        self._order = np.argsort(cube.reshape(-1), kind="stable")
        sorted_cubes = cube.reshape(-1)[self._order]
        self._starts = np.flatnonzero(np.diff(sorted_cubes, prepend=-1))
        self._cube_of = np.cumsum(np.diff(sorted_cubes, prepend=-1) != 0) - 1
        self._coordinates = coordinates[self._order]

    def posterior(self, log_weights: NDArray[np.float64]) -> Posterior:
        """Log weights (n,) of single places -> their sum at the likeliest place of each cube."""
        weights = log_weights[self._order]
        highest = np.maximum.reduceat(weights, self._starts)
        first_best = np.full(len(highest), len(weights))
        best = np.flatnonzero(weights == highest[self._cube_of])
        np.minimum.at(first_best, self._cube_of[best], best)
        scaled = np.exp(weights - highest[self._cube_of])
        sums = highest + np.log(np.add.reduceat(scaled, self._starts))
        return Posterior(self._coordinates[first_best], sums, UNCALIBRATED_BANDWIDTH_KM)


def load_geoclip(
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    *,
    with_backbone: bool = True,
    progress: Progress | None = None,
) -> GeoClip:
    """Load GeoCLIP, ready to answer.

    Args:
        folder: a release; None: the downloaded one.
        device: where the model shall be.
        with_backbone: also read the image tower; without it the model reads cached embeddings.
        progress: told of the gallery's encoding, half a minute the first time only.

    Raises:
        CheckpointError: naming what is missing or damaged and what to do.
    """
    source = geoclip_folder() if folder is None else Path(folder).expanduser()
    release = read_release(source)
    config = CONFIG if folder is None else BackboneConfig(str(source), NAME, fit="crop")
    backbone = build_geoclip_image(config).to(device).eval() if with_backbone else None
    encoder = release.location_encoder.to(device)
    gallery = open_gallery(encoder, release.coordinates, cache_folders().galleries, progress)
    fingerprint = _fingerprint(release, tower_folder(source))
    name = "geoclip" if folder is None else source.name
    width = (release.image_mlp[0].in_features, release.image_mlp[-1].out_features)
    return GeoClip(
        backbone,
        gallery,
        release.logit_scale,
        name=name,
        backbone_config=config,
        block_widths=width,
        calibration=read_user_calibration(KIND, fingerprint),
        fingerprint=fingerprint,
    ).eval()


def _fingerprint(release: GeoClipRelease, tower: Path) -> str:
    """Digits that change with any weight of GeoCLIP itself, its gallery, or the image tower."""
    digest = hashlib.sha256(f"{release.logit_scale!r} {tower_digest(tower)}".encode())
    digest.update(np.ascontiguousarray(release.coordinates).tobytes())
    for module in (release.image_mlp, release.location_encoder):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
