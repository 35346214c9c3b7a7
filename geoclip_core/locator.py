"""`Geolocator`: a photo in, a place out.

The path of a photo: bytes → `data.photos.open_photo` → `Backbone.embed` → `predict` of the model →
`Posterior` → `Prediction` with named places. Positions in a photo's EXIF are read and handed on,
never used for the guess.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from geoclip_core.data.photos import Photo, open_photo
from geoclip_core.earth.sphere import EARTH_RADIUS_KM
from geoclip_core.errors import PhotoError
from geoclip_core.explain import Explanation, explain_answers
from geoclip_core.hub.models import load_model
from geoclip_core.model.backbone import Backbone, Preprocessing
from geoclip_core.model.geolocation import ContextSource, Estimate, Locatable
from geoclip_core.model.map_context import map_context
from geoclip_core.model.posterior import Posterior
from geoclip_core.prediction import Exif, Failure, Prediction, labelled
from geoclip_core.training.embeddings import Engine, chosen_engine

PhotoSource = str | os.PathLike[str] | bytes | Image.Image
UPRIGHT_SIDES = (1024, 1024)
"""Width and height that hold the picture on which answers are explained, in pixels."""


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo reduced to what the backbone needs, so that a batch does not hold big pictures."""

    file: str
    views: list[Tensor]
    """(3, height, width) each."""
    exif: Exif | None
    seconds: float
    """Time that reading took."""


def prepare(source: PhotoSource, preprocessing: Preprocessing) -> PreparedPhoto:
    """Read a photo and make the views of a backbone.

    Raises:
        PhotoError: it cannot be read.
    """
    started = time.perf_counter()
    photo = open_photo(source, draft_size=preprocessing.draft_size)
    views = preprocessing.pixels(photo.image)
    return PreparedPhoto(photo.name, views, _exif(photo), time.perf_counter() - started)


def prepare_or_fail(source: PhotoSource, preprocessing: Preprocessing) -> PreparedPhoto | Failure:
    """The same, with a `Failure` for a photo that cannot be read."""
    try:
        return prepare(source, preprocessing)
    except PhotoError as error:
        return Failure(_name_of(source), str(error))


def upright_photo(
    source: PhotoSource, preprocessing: Preprocessing, name: str | None = None
) -> Photo:
    """A photo whose image is no larger than explaining an answer on it needs.

    Args:
        source: A path, the bytes of a file, or a PIL image.
        preprocessing: Of the backbone.
        name: What to call the photo; by default its file name.

    Raises:
        PhotoError: it cannot be read.
    """
    photo = open_photo(source, name=name, draft_size=preprocessing.draft_size)
    image = photo.image.copy()
    image.thumbnail(UPRIGHT_SIDES, Image.Resampling.BICUBIC)
    return replace(photo, image=image)


def is_source(value: Any) -> bool:
    """Whether a value is one photo, rather than several."""
    return isinstance(value, str | os.PathLike | bytes | Image.Image)


def _exif(photo: Photo) -> Exif | None:
    if photo.latitude is None and photo.captured_at is None:
        return None
    return Exif(photo.latitude, photo.longitude, photo.captured_at)


def _name_of(source: PhotoSource) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return getattr(source, "filename", "") or "photo"


OUTLIER_SHARE = 0.01
"""Share of each photo's mass that is spread evenly over the Earth before pooling, so that a single
misleading photo cannot veto the place that all others point to."""

_EARTH_AREA_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2


def pooled_posterior(posteriors: Sequence[Posterior]) -> Posterior:
    """Logarithmic pool (the normalised geometric mean) of the posteriors of one place.

    Equal weights that sum to one: photos of one place are not independent, so the pool sharpens
    where they agree but never as far as a product would (Genest & Zidek, "Combining Probability
    Distributions", Statistical Science 1986, section 3). A radius that is calibrated for one photo
    is therefore not made smaller than the photos themselves justify.

    Args:
        posteriors: One or more; of the same or of different points.

    Returns:
        A posterior over the union of the points, with the mean bandwidth.

    Raises:
        ValueError: there is no posterior.
    """
    if not posteriors:
        raise ValueError("pooling needs at least one posterior")
    first = posteriors[0]
    if len(posteriors) == 1:
        return first
    scale = first.radius_scale
    if all(np.array_equal(p.points, first.points) for p in posteriors[1:]):
        floor = np.log(OUTLIER_SHARE / len(first))
        logs = [np.logaddexp(np.log1p(-OUTLIER_SHARE) + p.log_weights, floor) for p in posteriors]
        known = [p.scores for p in posteriors if p.scores is not None]
        return Posterior(
            first.points,
            np.mean(logs, axis=0),
            float(np.mean([p.bandwidth_km for p in posteriors])),
            scores=np.mean(known, axis=0) if len(known) == len(posteriors) else None,
            radius_scale=scale,
        )
    points = np.concatenate([p.points for p in posteriors])
    # a point stands for the mass around it: weigh it by what its own photo put there
    own = np.concatenate([p.log_weights for p in posteriors])
    own_density = np.concatenate([p.log_density(p.points) for p in posteriors])
    floor = np.log(OUTLIER_SHARE / _EARTH_AREA_KM2)
    logs = [
        np.logaddexp(np.log1p(-OUTLIER_SHARE) + p.log_density(points), floor) for p in posteriors
    ]
    return Posterior(
        points,
        np.mean(logs, axis=0) + own - own_density,
        float(np.mean([p.bandwidth_km for p in posteriors])),
        radius_scale=scale,
    )


MANY_PHOTOS = 40
"""From so many photos on, `Geolocator.accelerate` saves more time than it takes."""


@dataclass
class Geolocator:
    """Answers where photos were taken, with one model on one device.

    Make it with `Geolocator.load`. `model` needs its backbone.
    """

    model: Locatable
    name: str
    device: str = "cpu"
    folder: Path | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    _engine: Engine | None = field(default=None, init=False, repr=False)
    _engine_tried: bool = field(default=False, init=False, repr=False)

    @classmethod
    def load(cls, name: str | os.PathLike[str] = "mini", device: str = "cpu") -> Self:
        """Load a model by bundled name, run or checkpoint folder, downloaded name, or hub id.

        Raises:
            CheckpointError: there is no such model, or its files are not whole; the message says
                what can be chosen instead.
        """
        choice = load_model(name, device)
        return cls(choice.model, choice.name, device, choice.folder, choice.metrics)

    @property
    def features(self) -> tuple[str, ...]:
        """The context features that the model answers."""
        return tuple(self.model.vocabularies)

    @property
    def context_source(self) -> ContextSource:
        """Whether context is read in the photo or looked up on the map under the posterior."""
        return self.model.context_source

    @property
    def backbone(self) -> Backbone:
        """The network that embeds photos.

        Raises:
            ValueError: the model was loaded without it.
        """
        if self.model.backbone is None:
            raise ValueError(f"{self.name} was loaded without its backbone and cannot read photos")
        return self.model.backbone

    @property
    def calibrated(self) -> bool:
        """Whether radii were fitted on held-out photos."""
        return self.model.calibration is not None

    def accelerate(self) -> bool:
        """Run the backbone with ONNX Runtime from now on, where that is possible.

        It takes a few seconds once, so it pays for many photos. Answers are the same but for
        rounding.

        Returns:
            False where torch stays: not on a CPU, too large, or ONNX gives other numbers.
        """
        if not self._engine_tried:
            self._engine = chosen_engine(self.backbone)
            self._engine_tried = True
        return self._engine is not None

    def locate(
        self, photo: PhotoSource | Sequence[PhotoSource], top_k: int = 5, name: str | None = None
    ) -> Prediction:
        """Locate one photo, or one place from several photos of it.

        Args:
            photo: A path, the bytes of a file, a PIL image; or a sequence of these that all show
                one place.
            top_k: How many candidates, 1 or more.
            name: What to call the photo; by default its file name.

        Raises:
            PhotoError: a photo cannot be read.
        """
        _check_top_k(top_k)
        sources = [photo] if is_source(photo) else list(photo)
        if not sources:
            raise PhotoError("no photo was given")
        prepared = [prepare(source, self._preprocessing) for source in sources]
        return self._together(prepared, top_k, name)

    def locate_many(
        self,
        photos: Iterable[PhotoSource],
        *,
        batch_size: int = 32,
        top_k: int = 5,
        errors: Literal["raise", "yield"] = "raise",
        progress: Callable[[int], None] | None = None,
    ) -> Iterator["Prediction | Failure"]:
        """Locate many photos in batches, in their order.

        Args:
            photos: Paths, bytes or PIL images; read lazily.
            batch_size: Photos that pass the backbone together.
            top_k: How many candidates each.
            errors: "raise" a `PhotoError` at the first photo that cannot be read, or "yield" a
                `Failure` in its place and go on.
            progress: Called with the number of photos done after each batch.

        Raises:
            PhotoError: a photo cannot be read and `errors` is "raise".
        """
        _check_top_k(top_k)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        if errors not in ("raise", "yield"):
            raise ValueError(f'errors must be "raise" or "yield", not {errors!r}')
        done = 0
        remaining = iter(photos)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            while batch := list(islice(remaining, batch_size)):
                prepared = list(pool.map(prepare_or_fail, batch, repeat(self._preprocessing)))
                if errors == "raise":
                    for item in prepared:
                        if isinstance(item, Failure):
                            raise PhotoError(item.error)
                readable = [item for item in prepared if isinstance(item, PreparedPhoto)]
                predicted = iter(self._predict(readable, top_k))
                for item in prepared:
                    yield item if isinstance(item, Failure) else next(predicted)
                done += len(batch)
                if progress:
                    progress(done)

    def explain(
        self,
        photo: PhotoSource,
        name: str | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        lock: contextlib.AbstractContextManager[Any] | None = None,
    ) -> Explanation:
        """Which parts of a photo the answers rest on: the model looks about 70 times.

        Args:
            photo: A path, the bytes of a file, or a PIL image.
            name: What to call the photo; by default its file name.
            progress: Called with looks done and looks in all.
            lock: Held while the model computes, free in between.

        Raises:
            PhotoError: the photo cannot be read.
        """
        opened = upright_photo(photo, self._preprocessing, name)
        guard = lock or contextlib.nullcontext()
        with guard:
            self.accelerate()

        def estimate(images: Sequence[Image.Image]) -> Sequence[Estimate]:
            with guard, torch.inference_mode():
                return self.model.predict(self._embed(self._preprocessing.batch(images)))

        vocabularies = self.model.vocabularies if self.context_source == "photo" else {}
        effects = explain_answers(
            opened.image,
            estimate,
            {feature: vocabulary.labels for feature, vocabulary in vocabularies.items()},
            progress,
        )
        return Explanation(opened.name, self.name, opened.image, effects)

    def embed(self, photo: PhotoSource) -> Tensor:
        """The embedding (D,) of a photo, for those who want to build on it."""
        return self._embeddings([prepare(photo, self._preprocessing)])[0]

    @property
    def _preprocessing(self) -> Preprocessing:
        return self.backbone.preprocessing

    def _embeddings(self, prepared: Sequence[PreparedPhoto]) -> Tensor:
        views = [torch.stack(view) for view in zip(*(p.views for p in prepared), strict=True)]
        return self._embed(views)

    def _embed(self, views: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            return (self._engine or self.backbone.embed)(views)

    def _predict(self, prepared: Sequence[PreparedPhoto], top_k: int) -> list[Prediction]:
        if not prepared:
            return []
        started = time.perf_counter()
        with torch.inference_mode():
            estimates = self.model.predict(self._embeddings(prepared))
        share = (time.perf_counter() - started) / len(prepared)
        return [
            self._prediction(item.file, estimate, top_k, item.exif, item.seconds + share)
            for item, estimate in zip(prepared, estimates, strict=True)
        ]

    def _together(
        self, prepared: Sequence[PreparedPhoto], top_k: int, name: str | None
    ) -> Prediction:
        started = time.perf_counter()
        with torch.inference_mode():
            estimates = self.model.predict(self._embeddings(prepared))
        first = estimates[0]
        if len(estimates) > 1:
            context = {
                feature: sum(e.context[feature] for e in estimates) / len(estimates)
                for feature in first.context
            }
            posterior = pooled_posterior([e.posterior for e in estimates])
            first = replace(first, posterior=posterior, context=context)
        label = name or " + ".join(item.file for item in prepared)
        exif = next((p.exif for p in prepared if p.exif and p.exif.latitude is not None), None)
        seconds = sum(p.seconds for p in prepared) + time.perf_counter() - started
        return self._prediction(label, first, top_k, exif or prepared[0].exif, seconds)

    def _prediction(
        self, file: str, estimate: Estimate, top_k: int, exif: Exif | None, seconds: float
    ) -> Prediction:
        started = time.perf_counter()
        context = (
            map_context(estimate.posterior)
            if self.context_source == "map"
            else {
                feature: labelled(self.model.vocabularies[feature].labels, probabilities)
                for feature, probabilities in estimate.context.items()
            }
        )
        found = Prediction.of(
            estimate.posterior,
            top_k,
            file=file,
            model=self.name,
            context=context,
            exif=exif,
            calibrated=self.calibrated,
            context_source=self.context_source,
        )
        return replace(found, seconds=seconds + time.perf_counter() - started)


def _check_top_k(top_k: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k must be 1 or more, not {top_k}")
