"""Locate photos with a loaded model.

The path of a photo: bytes → `data.photos.open_photo` → `Backbone.embed` → `predict` of the model →
`Posterior` → `Prediction` with named places. A photo's EXIF position is passed on and never used
for the estimate.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from geoclip_core.data.photos import Photo, Readable, open_photo, with_sidecars
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import EARTH_RADIUS_KM, haversine_km
from geoclip_core.errors import CheckpointError, HintError, PhotoError, first_line
from geoclip_core.evaluation.radii import MeasuredRadius, measured_radius
from geoclip_core.explain import Explanation, explain_answers
from geoclip_core.hints import Hints, read_hints
from geoclip_core.hub.models import load_model
from geoclip_core.model.backbone import Backbone, Preprocessing
from geoclip_core.model.geolocation import ContextSource, Estimate, GeolocationModel, Locatable
from geoclip_core.model.map_context import Region, inside_region, map_context
from geoclip_core.model.posterior import Posterior
from geoclip_core.prediction import (
    RADIUS_MASSES,
    SIGNIFICANT,
    Candidate,
    Exif,
    Failure,
    Prediction,
    Similar,
    SimilarPhoto,
    labelled,
)
from geoclip_core.similar import TrainingPhotos, training_photos
from geoclip_core.training.embeddings import Engine, chosen_engine


@dataclass(frozen=True)
class EmbeddedPhoto:
    """A photo that has passed through the backbone: all that is needed to locate it again."""

    file: str
    """Its path as it was given, or its name."""
    embedding: Tensor
    """(D,) raw embedding."""
    exif: Exif | None
    seconds: float
    """Time taken to read and embed it."""


PhotoFile = str | os.PathLike[str] | bytes | Image.Image | Readable
"""A path, the bytes of a file, a PIL image, or a binary file."""
PhotoSource = PhotoFile | EmbeddedPhoto
"""The same, or what `Geolocator.embed` returned."""
UPRIGHT_SIDES = (1024, 1024)
"""Largest width and height in pixels of a photo that is explained."""
OUTLIER_SHARE = 0.01
"""Share of each photo's mass that is spread evenly over the Earth before pooling, so that one
misleading photo cannot rule out the place that all others agree on."""
_EARTH_AREA_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2


@dataclass(frozen=True)
class _PreparedPhoto:
    """The views of a photo without the photo itself, so that a batch needs little memory."""

    file: str
    """Its path as it was given, or its name."""
    views: list[Tensor]
    """(3, height, width) each."""
    exif: Exif | None
    seconds: float
    """Time taken to read it."""


def _prepare(source: PhotoSource, preprocessing: Preprocessing) -> _PreparedPhoto | EmbeddedPhoto:
    """Read a photo and return the views that the backbone takes; an embedded photo stays."""
    if isinstance(source, EmbeddedPhoto):
        return source
    started = time.perf_counter()
    photo = open_photo(source, draft_size=preprocessing.draft_size)
    if isinstance(source, str | os.PathLike):
        photo = with_sidecars(photo, Path(source))
    views = preprocessing.pixels(photo.image)
    exif = None
    if photo.source is not None or photo.camera is not None:
        source_of = photo.source or "EXIF"
        exif = Exif(photo.latitude, photo.longitude, photo.captured_at, source_of, photo.camera)
    return _PreparedPhoto(_file_of(source), views, exif, time.perf_counter() - started)


def _file_of(source: PhotoSource) -> str:
    """Return the path of a photo, untouched, so that results can be joined to files."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, EmbeddedPhoto):
        return source.file
    named = isinstance(source, ImageFile.ImageFile) and source.filename
    return os.fsdecode(named) if named else "photo"


def _prepare_or_fail(
    source: PhotoSource, preprocessing: Preprocessing
) -> _PreparedPhoto | EmbeddedPhoto | Failure:
    try:
        return _prepare(source, preprocessing)
    except PhotoError as error:
        return Failure(_file_of(source), str(error))


@dataclass(frozen=True)
class _Answer:
    """What the model says about a photo, or several of one place."""

    estimate: Estimate
    """With the hints in its heads."""
    without_hints: Estimate
    unlikeness: float | None
    """How unlike the training photos it is (of several, the most unlike); None: not known."""


@dataclass
class Geolocator:
    """Estimates where photos were taken, with one model on one device; see `Geolocator.load`.

    Attributes:
        model: The model, with its backbone.
        name: Its display name.
        device: Torch device of the model.
        folder: Folder of its files, or None.
        metrics: Its metrics.json; empty if it has none.
    """

    model: Locatable
    name: str
    device: str = "cpu"
    folder: Path | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    _engine: Engine | None = field(default=None, init=False, repr=False)
    _engines_tried: set[bool] = field(default_factory=set, init=False, repr=False)
    _similar_lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @classmethod
    def load(cls, name: str | os.PathLike[str] = "mini", device: str = "cpu") -> Self:
        """Load a model by bundled name, run or checkpoint folder, downloaded name, or hub id.

        Raises:
            CheckpointError: No model has this name, or its files are incomplete; the message lists
                the models to choose from.
        """
        choice = load_model(name, device)
        return cls(choice.model, choice.name, device, choice.folder, choice.metrics)

    @cached_property
    def _measured(self) -> MeasuredRadius:
        """What the radii were on test photos; it replaces radii that these contradict."""
        return measured_radius(self.metrics, self.model.calibration)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the context features that the model estimates."""
        return tuple(self.model.vocabularies)

    @property
    def context_source(self) -> ContextSource:
        """Whether context is predicted from the photo ("photo") or looked up on the map ("map")."""
        return self.model.context_source

    @property
    def backbone(self) -> Backbone:
        """The network that embeds photos.

        Raises:
            ValueError: The model was loaded without it.
        """
        if self.model.backbone is None:
            raise ValueError(f"{self.name} was loaded without its backbone and cannot read photos")
        return self.model.backbone

    @property
    def calibrated(self) -> bool:
        """Whether radii were fitted on held-out photos."""
        return self.model.calibration is not None

    @property
    def engine(self) -> Engine | None:
        """What runs the backbone instead of torch, after a photo or `accelerate`; None: torch."""
        return self._engine

    def accelerate(self, export: bool = True) -> bool:
        """Run the backbone with ONNX Runtime from now on, if possible.

        To export the network takes a few seconds, which pays off from about `MANY_PHOTOS` photos;
        it is then kept in the cache, and later used from the first photo on. Estimates change by
        rounding only.

        Args:
            export: False: only if the network has been exported before.

        Returns:
            False if torch is still used: the backbone is not on a CPU or is too large, ONNX Runtime
            is missing or its results differ, or the network was not to be exported.
        """
        if self._engine is None and export not in self._engines_tried:
            self._engine = chosen_engine(self.backbone, export)
            self._engines_tried.add(export)
        return self._engine is not None

    def locate(
        self,
        photo: PhotoSource | Sequence[PhotoSource],
        top_k: int = 5,
        name: str | None = None,
        *,
        given: Mapping[str, str | int] | None = None,
        use_context: bool = True,
        similar: int = 0,
    ) -> Prediction:
        """Estimate where a photo, or several photos of one place, were taken.

        Args:
            photo: A path, the bytes of a file, a PIL image, or what `embed` returned; or a sequence
                of these that all show one place.
            top_k: Number of candidate places, 1 or more.
            name: Name of the photo; by default its path as given.
            given: What is known: {"country": "Chile", "climate": "Csb", "month": 1}; also state,
                county, city. It replaces what the model's heads read in the photo, and leaves on
                the map only what agrees with it.
            use_context: False: do not let the context heads move the estimate.
            similar: Number of training photos to find that look most like it.

        Raises:
            PhotoError: A photo cannot be read, or the sequence is empty.
            CheckpointError: The model's weights give no estimate.
            HintError: A hint is not understood, cannot be used, or contradicts another.
            PlaceError: A given place is not known, or its name fits several.
            ValueError: `top_k` is less than 1, or the model has no context to switch off.
        """
        _check_top_k(top_k)
        hints = self.check_hints(given, use_context)
        if isinstance(photo, str | os.PathLike | bytes | Image.Image | Readable | EmbeddedPhoto):
            sources: list[PhotoSource] = [photo]
        else:
            sources = list(photo)
        if not sources:
            raise PhotoError("no photo was given")
        prepared = [_prepare(source, self._preprocessing) for source in sources]
        embedded = self._embedded(prepared)
        found = self._together(embedded, top_k, name, hints, use_context)
        return self._with_similar(found, embedded, similar)

    def locate_many(
        self,
        photos: Iterable[PhotoSource],
        *,
        batch_size: int = 32,
        top_k: int = 5,
        errors: Literal["raise", "yield"] = "raise",
        progress: Callable[[int], None] | None = None,
        given: Mapping[str, str | int] | None = None,
        use_context: bool = True,
        similar: int = 0,
    ) -> Iterator[Prediction | Failure]:
        """Yield a prediction for each of many photos, in order, computed in batches.

        Args:
            photos: Paths, bytes of files, PIL images, or what `embed` returned; read batch by
                batch, one batch ahead.
            batch_size: Photos that go through the backbone together.
            top_k: Number of candidate places for each photo, 1 or more.
            errors: "raise" a `PhotoError` at the first photo that cannot be read, or "yield" a
                `Failure` in its place and go on.
            progress: Called after each batch with the number of photos done.
            given: What is known about all of them, as in `locate`.
            use_context: As in `locate`.
            similar: As in `locate`.

        Raises:
            PhotoError: A photo cannot be read and `errors` is "raise".
            CheckpointError: The model's weights give no estimate.
            ValueError: An argument is out of range.
        """
        _check_top_k(top_k)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        if errors not in ("raise", "yield"):
            raise ValueError(f'errors must be "raise" or "yield", not {errors!r}')
        hints = self.check_hints(given, use_context)
        done = 0
        embedded = self.embed(photos, batch_size=batch_size, errors=errors)
        while batch := list(islice(embedded, batch_size)):
            readable = [item for item in batch if isinstance(item, EmbeddedPhoto)]
            predicted = iter(self._predict(readable, top_k, hints, use_context))
            for item in batch:
                if isinstance(item, Failure):
                    yield item
                else:
                    yield self._with_similar(next(predicted), [item], similar)
            done += len(batch)
            if progress:
                progress(done)

    def embed(
        self,
        photos: Iterable[PhotoSource],
        *,
        batch_size: int = 32,
        errors: Literal["raise", "yield"] = "raise",
        lock: contextlib.AbstractContextManager[object] | None = None,
    ) -> Iterator[EmbeddedPhoto | Failure]:
        """Yield photos that have passed through the backbone, in order, for `locate`.

        The next batch is read while one passes through the backbone. An embedded photo stays as it
        is.

        Args:
            photos: As in `locate_many`; at most two batches are read ahead.
            batch_size: Photos that go through the backbone together.
            errors: As in `locate_many`.
            lock: Held while the backbone runs, not while photos are read.

        Raises:
            PhotoError: A photo cannot be read and `errors` is "raise".
            CheckpointError: The backbone gives numbers that are not finite.
        """
        remaining = iter(photos)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:

            def read() -> "list[Future[_PreparedPhoto | EmbeddedPhoto | Failure]]":
                sources = islice(remaining, batch_size)
                return [pool.submit(_prepare_or_fail, one, self._preprocessing) for one in sources]

            ahead = read()
            while ahead:
                batch, ahead = ahead, read()
                done = self._embedded_or_failed([one.result() for one in batch], errors, lock)
                del batch  # and with it the views, before more photos are read
                yield from done

    def _embedded_or_failed(
        self,
        photos: Sequence[_PreparedPhoto | EmbeddedPhoto | Failure],
        errors: Literal["raise", "yield"],
        lock: contextlib.AbstractContextManager[object] | None,
    ) -> list[EmbeddedPhoto | Failure]:
        """Return a batch that has passed through the backbone, and the failures among it."""
        for item in photos:
            if errors == "raise" and isinstance(item, Failure):
                raise PhotoError(item.error)
        readable = [item for item in photos if not isinstance(item, Failure)]
        with lock or contextlib.nullcontext():
            embedded = iter(self._embedded(readable))
        return [item if isinstance(item, Failure) else next(embedded) for item in photos]

    def similar(
        self, photo: PhotoSource, k: int = 5, origin: tuple[float, float] | None = None
    ) -> Similar:
        """Return the k training photos that look most like a photo, if the model has any at hand.

        Args:
            photo: As in `locate`.
            k: Their number, 1 or more.
            origin: Latitude and longitude that distances are from; None: the estimate.

        Raises:
            PhotoError: The photo cannot be read.
            CheckpointError: The model's weights give no estimate.
        """
        if k < 1:
            raise ValueError(f"k must be 1 or more, not {k}")
        embedded = self._embedded([_prepare(photo, self._preprocessing)])[0]
        if origin is None:
            found = self.locate(embedded, top_k=1)
            origin = found.latitude, found.longitude
        return self._similar(embedded.embedding, k, origin)

    def _similar(self, embedding: Tensor, k: int, origin: tuple[float, float]) -> Similar:
        with self._similar_lock:  # the first call reads the dataset
            known = self._training_photos
        if known.index is None:
            return Similar((), known.note)
        rows, cosines = known.index.nearest(known.direction(embedding), k)
        points = known.coordinates[rows]
        places = Gazetteer.load().places(points)
        return Similar(
            tuple(
                SimilarPhoto(
                    float(cosine),
                    float(point[0]),
                    float(point[1]),
                    float(haversine_km(origin, point)),
                    place,
                    known.root,
                    known.paths[row] if known.paths else None,
                )
                for row, cosine, point, place in zip(rows, cosines, points, places, strict=True)
            ),
            known.note,
        )

    def _with_similar(
        self, prediction: Prediction, photos: Sequence[EmbeddedPhoto], k: int
    ) -> Prediction:
        """Add the training photos like the first of the photos of a prediction."""
        if not k:
            return prediction
        origin = prediction.latitude, prediction.longitude
        return replace(prediction, similar=self._similar(photos[0].embedding, k, origin))

    @cached_property
    def _training_photos(self) -> TrainingPhotos:
        return training_photos(self.model, self.folder)

    def check_hints(
        self, given: Mapping[str, str | int] | None = None, use_context: bool = True
    ) -> Hints | None:
        """Return hints as the model understands them, or None; `locate` checks them like this.

        Raises:
            HintError: A hint is not understood or cannot be used by this model.
            PlaceError: A given place is not known, or its name fits several.
            ValueError: The model has no context to switch off.
        """
        if not use_context and not self.has_context_switch:
            raise ValueError(f"{self.name} has no context heads that could be switched off")
        return read_hints(given, self.model.vocabularies, self.name) if given else None

    @property
    def has_context_switch(self) -> bool:
        """Whether `use_context` can be False: the model has context heads that move its answer."""
        return isinstance(self.model, GeolocationModel) and bool(self.model.features)

    def explain(
        self,
        photo: PhotoFile,
        name: str | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        lock: contextlib.AbstractContextManager[object] | None = None,
    ) -> Explanation:
        """Find the parts of a photo that the estimate depends on, in up to 100 passes of the model.

        Args:
            photo: A path, the bytes of a file, or a PIL image.
            name: Name of the photo; by default its file name.
            progress: Called with (images done, all images).
            lock: Held while the model runs, released between batches.

        Raises:
            PhotoError: The photo cannot be read.
        """
        opened = upright_photo(photo, self._preprocessing, name)
        guard = lock or contextlib.nullcontext()
        with guard:
            self.accelerate()

        def estimate(images: Sequence[Image.Image]) -> Sequence[Estimate]:
            with guard:
                return self._estimates(self._preprocessing.batch(images))

        vocabularies = self.model.vocabularies if self.context_source == "photo" else {}
        effects = explain_answers(
            opened.image,
            estimate,
            {feature: vocabulary.labels for feature, vocabulary in vocabularies.items()},
            progress,
        )
        return Explanation(opened.name, self.name, opened.image, effects)

    @property
    def _preprocessing(self) -> Preprocessing:
        return self.backbone.preprocessing

    def _embedded(self, photos: Sequence[_PreparedPhoto | EmbeddedPhoto]) -> list[EmbeddedPhoto]:
        """Pass the photos that are not embedded yet through the backbone, together."""
        fresh = [photo for photo in photos if isinstance(photo, _PreparedPhoto)]
        if not fresh:
            return [photo for photo in photos if isinstance(photo, EmbeddedPhoto)]
        started = time.perf_counter()
        views = [torch.stack(view) for view in zip(*(photo.views for photo in fresh), strict=True)]
        embeddings = iter(self._embed(views))
        share = (time.perf_counter() - started) / len(fresh)
        return [
            photo
            if isinstance(photo, EmbeddedPhoto)
            else EmbeddedPhoto(photo.file, next(embeddings), photo.exif, photo.seconds + share)
            for photo in photos
        ]

    def _answers(
        self, photos: Sequence[EmbeddedPhoto], hints: Hints | None, use_context: bool
    ) -> list[_Answer]:
        embeddings = torch.stack([photo.embedding for photo in photos])
        plain = self._estimated(embeddings, None, use_context)
        hinted = plain
        if hints is not None and hints.heads:
            hinted = self._estimated(embeddings, hints, use_context)
        scores = self.model.unlikeness(embeddings) if self.model.domain is not None else None
        return [
            _Answer(estimate, before, None if scores is None else float(scores[row]))
            for row, (estimate, before) in enumerate(zip(hinted, plain, strict=True))
        ]

    def _embed(self, views: Sequence[Tensor]) -> Tensor:
        self.accelerate(export=False)
        with torch.inference_mode():
            embeddings = (self._engine or self.backbone.embed)(views)
        if not torch.isfinite(embeddings).all():
            raise CheckpointError(
                f"the backbone of {self.name} gives numbers that are not finite: its weights are "
                "damaged or were not trained"
            )
        return embeddings

    def _estimates(self, views: Sequence[Tensor]) -> list[Estimate]:
        """Return the estimates of photos from their views.

        Raises:
            CheckpointError: The weights give none; those of a stranger may be any numbers.
        """
        return self._estimated(self._embed(views), None, True)

    def _estimated(
        self, embeddings: Tensor, hints: Hints | None, use_context: bool
    ) -> list[Estimate]:
        try:
            with torch.inference_mode():
                if isinstance(self.model, GeolocationModel):
                    heads = None if hints is None else hints.heads
                    estimates = self.model.predict(embeddings, heads, use_context)
                else:
                    estimates = self.model.predict(embeddings)
            for feature, shares in (item for e in estimates for item in e.context.items()):
                if not np.isfinite(shares).all():
                    raise ValueError(f"the probabilities of {feature} are not finite")
            return estimates
        except (CheckpointError, HintError):
            raise
        except (ValueError, ArithmeticError, RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"the model {self.name} gives no estimate ({first_line(error)}): its weights are "
                "damaged or were not trained"
            ) from error

    def _predict(
        self,
        photos: Sequence[EmbeddedPhoto],
        top_k: int,
        hints: Hints | None,
        use_context: bool,
    ) -> list[Prediction]:
        if not photos:
            return []
        started = time.perf_counter()
        answers = self._answers(photos, hints, use_context)
        share = (time.perf_counter() - started) / len(photos)
        return [
            self._hinted(item.file, answer, top_k, item.exif, item.seconds + share, hints)
            for item, answer in zip(photos, answers, strict=True)
        ]

    def _together(
        self,
        photos: Sequence[EmbeddedPhoto],
        top_k: int,
        name: str | None,
        hints: Hints | None,
        use_context: bool,
    ) -> Prediction:
        started = time.perf_counter()
        answers = self._answers(photos, hints, use_context)
        scores = [answer.unlikeness for answer in answers if answer.unlikeness is not None]
        together = _Answer(
            pooled_estimate([answer.estimate for answer in answers]),
            pooled_estimate([answer.without_hints for answer in answers]),
            max(scores, default=None),
        )
        label = name or " + ".join(photo.file for photo in photos)
        exif = next((p.exif for p in photos if p.exif and p.exif.latitude is not None), None)
        seconds = sum(p.seconds for p in photos) + time.perf_counter() - started
        found = self._hinted(label, together, top_k, exif or photos[0].exif, seconds, hints)
        if len(photos) == 1:
            return found
        against = speak_against(
            [answer.estimate.posterior for answer in answers], (found.latitude, found.longitude)
        )
        misfits = tuple(p.file for p, wrong in zip(photos, against, strict=True) if wrong)
        return replace(found, misfits=misfits)

    def _hinted(
        self,
        file: str,
        answer: _Answer,
        top_k: int,
        exif: Exif | None,
        seconds: float,
        hints: Hints | None,
    ) -> Prediction:
        """Return the prediction with hints; it holds the one without."""
        started = time.perf_counter()
        plain = self._prediction(file, answer.without_hints, top_k, exif, seconds)
        domain = self.model.domain
        if domain is not None:
            known = None
            if answer.unlikeness is not None:
                known = domain.familiarity(answer.unlikeness)
            prior = domain.prior(plain.posterior.bandwidth_km)
            plain = replace(plain, domain=domain, familiarity=known, prior=prior)
        if hints is None:
            return plain
        posterior: Posterior | None = answer.estimate.posterior
        if hints.region is not None:
            posterior = inside_region(answer.estimate.posterior, hints.region)
        if posterior is None:
            raise HintError(f"no place on the map has {hints.words}: they contradict each other")
        posterior = replace(posterior, held_out_ranks=None)
        estimate = replace(answer.estimate, posterior=posterior)
        hinted = self._prediction(file, estimate, top_k, exif, seconds, hints.region)
        return replace(
            hinted,
            given=hints.labels,
            region=hints.region,
            without_given=plain,
            domain=plain.domain,
            familiarity=plain.familiarity,
            prior=plain.prior,
            seconds=seconds + time.perf_counter() - started,
        )

    def _prediction(
        self,
        file: str,
        estimate: Estimate,
        top_k: int,
        exif: Exif | None,
        seconds: float,
        region: Region | None = None,
    ) -> Prediction:
        started = time.perf_counter()
        context = (
            map_context(estimate.posterior, region=region)
            if self.context_source == "map"
            else {
                feature: labelled(self.model.vocabularies[feature].labels, probabilities)
                for feature, probabilities in estimate.context.items()
            }
        )
        posterior = estimate.posterior
        best, places = posterior.mode(), posterior.top_k(top_k)
        named = Gazetteer.load().places([best, *[(lat, lon) for lat, lon, _ in places]])
        return Prediction(
            file=file,
            model=self.name,
            latitude=best[0],
            longitude=best[1],
            radius_km={
                mass: self._measured.radius_km(mass, radius)
                for mass, radius in zip(
                    RADIUS_MASSES, posterior.radii_km(RADIUS_MASSES, best), strict=True
                )
            },
            radius_note=self._measured.note,
            candidates=tuple(
                Candidate(lat, lon, probability, place)
                for (lat, lon, probability), place in zip(places, named[1:], strict=True)
            ),
            context=context,
            posterior=posterior,
            place=named[0],
            exif=exif,
            seconds=seconds + time.perf_counter() - started,
            calibrated=self.calibrated,
            context_source=self.context_source,
        )


def _check_top_k(top_k: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k must be 1 or more, not {top_k}")


def pooled_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Return one estimate of several photos of one place: `pooled_posterior`, mean context."""
    first = estimates[0]
    if len(estimates) == 1:
        return first
    context = {
        feature: np.mean([e.context[feature] for e in estimates], axis=0)
        for feature in first.context
    }
    return replace(
        first, posterior=pooled_posterior([e.posterior for e in estimates]), context=context
    )


def pooled_posterior(posteriors: Sequence[Posterior]) -> Posterior:
    """Return the logarithmic pool (normalised geometric mean) of the posteriors of one place.

    The weights are equal and sum to one (Genest & Zidek, "Combining Probability Distributions",
    Statistical Science 1986, section 3). Photos of one place are not independent, so the pool must
    not be as sharp as their product; the radii, calibrated for single photos, would be too small.
    The pool is over the union of the points, with the mean bandwidth.
    """
    first, scores = posteriors[0], None
    if all(np.array_equal(p.points, first.points) for p in posteriors[1:]):
        floor = np.log(OUTLIER_SHARE / len(first))
        logs = [np.logaddexp(np.log1p(-OUTLIER_SHARE) + p.log_weights, floor) for p in posteriors]
        points, pooled = first.points, np.mean(logs, axis=0)
        known = [p.scores for p in posteriors if p.scores is not None]
        if len(known) == len(posteriors):
            scores = np.mean(known, axis=0)
    else:
        points = np.concatenate([p.points for p in posteriors])
        # A point stands for the mass around it: weight it by the mass that its own photo put there.
        own = np.concatenate([p.log_weights for p in posteriors])
        own_density = np.concatenate([p.log_density(p.points) for p in posteriors])
        floor = np.log(OUTLIER_SHARE / _EARTH_AREA_KM2)
        inside = np.log1p(-OUTLIER_SHARE)
        logs = [np.logaddexp(inside + p.log_density(points), floor) for p in posteriors]
        pooled = np.mean(logs, axis=0) + own - own_density
    bandwidth = float(np.mean([p.bandwidth_km for p in posteriors]))
    return Posterior(points, pooled, bandwidth, scores=scores, radius_scale=first.radius_scale)


def speak_against(posteriors: Sequence[Posterior], point: tuple[float, float]) -> list[bool]:
    """Return which posteriors speak against a point, as in `Prediction.check`.

    The p-value of the point is below `SIGNIFICANT`; without held-out photos, the point is outside
    the 90 % region.
    """
    against = []
    for posterior in posteriors:
        place = np.array([point])
        p_values = posterior.p_values(posterior.misfit(place))
        if p_values is None:
            against.append(bool(posterior.better_mass(place)[0] >= RADIUS_MASSES[-1]))
        else:
            against.append(bool(p_values[0] < SIGNIFICANT))
    return against


def upright_photo(
    source: PhotoFile, preprocessing: Preprocessing, name: str | None = None
) -> Photo:
    """Return a photo, upright and at most `UPRIGHT_SIDES` large, to explain or show.

    Its name is by default the file name; ``preprocessing`` is that of the backbone.

    Raises:
        PhotoError: The photo cannot be read.
    """
    photo = open_photo(source, name=name, draft_size=preprocessing.draft_size)
    image = photo.image.copy()
    image.thumbnail(UPRIGHT_SIDES, Image.Resampling.BICUBIC)
    return replace(photo, image=image)
