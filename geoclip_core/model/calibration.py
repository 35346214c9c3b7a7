"""Calibration of posteriors on photos that the model was not trained on."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval, Len
from numpy.typing import NDArray
from scipy.special import logit

from geoclip_core.checks import STRICT, Positive, Share, checked
from geoclip_core.earth.sphere import haversine_km, unit_vectors
from geoclip_core.errors import CheckpointError, FileError
from geoclip_core.files import cache_folders, parse_json, read_json, write_atomically
from geoclip_core.model.map_context import level_outcomes
from geoclip_core.model.posterior import HALF_CIRCUMFERENCE_KM, Posterior, kernel
from geoclip_core.processes import Progress

LEVELS = (0.5, 0.9)
"""Shares of the mass whose circles are calibrated."""
MAX_BYTES = 10**6
"""Bytes of the largest file of a calibration."""
CALIBRATED_BY = "calibrated_by"
"""Key of metrics.json: `identity_of` the calibration that its numbers were measured with. Files of
older versions do not have it before the model is calibrated anew."""
FOLDS = 5
"""Number of folds for measuring coverage."""
MAX_FIT_PHOTOS, MAX_FIT_POINTS = 1500, 2048
"""Number of photos, and of points per photo, that suffice for a fit."""
MAX_LEVEL_PHOTOS = 400
"""Number of photos from which the correction of levels is fitted."""

Density = Callable[[float], Posterior]
"""Kernel width in km -> density of the training photos (`Domain.prior`)."""
Rank = Annotated[float, Interval(ge=-1e6, le=1e6)]
SLOPES, OFFSETS = (0.2, 5.0), (-4.0, 4.0)
Offset = Annotated[float, Interval(ge=OFFSETS[0], le=OFFSETS[1])]
MAX_RANKS = 500
"""Number of ranks that are kept: p-values to 0.2 %."""
BANDWIDTH_RANGE = (np.log(5.0), np.log(5000.0))
"""Natural logarithms of the narrowest and widest kernel in km."""


@dataclass(frozen=True)
class Calibration:
    """Corrections of a model's posteriors, fitted on held-out photos.

    Raises:
        ValueError: a number is not positive, or a percentage not between 0 and 100.
    """

    __pydantic_config__ = STRICT

    temperature: Annotated[float, Interval(ge=1e-4, le=1e4)] = 1.0
    """Divides the log weights of the points."""
    bandwidth_km: Annotated[float, Interval(ge=1e-3, le=HALF_CIRCUMFERENCE_KM)] = 100.0
    """Kernel width of each point."""
    radius_scale: dict[str, Positive] = field(default_factory=dict)
    """Percentage as text ("50", "90") -> factor on the radius that holds that share of the mass."""
    n: Annotated[int, Interval(ge=0, le=10**12)] = 0
    """Number of photos it was fitted on."""
    source: str = ""
    """Description of those photos."""
    coverage: dict[str, Share] = field(default_factory=dict)
    """Percentage -> share of photos inside that circle, each measured by a fit on other photos."""
    ranks: Annotated[list[Rank], Len(0, 10**4)] = field(default_factory=list)
    """`Posterior.misfit` of the true place of each photo, by a fit on other photos; empty in
    checkpoints of older versions."""
    ranks_of: Literal["mass", "ratio"] = "mass"
    """What `ranks` are: "ratio" to the density of the training photos, or, where that is not known
    and in checkpoints of older versions, "mass" of denser places."""
    level_map: tuple[Positive, Offset] = (1.0, 0.0)
    """Slope and offset of the log odds of levels (`map_context.corrected`)."""

    def __post_init__(self) -> None:
        numbers = [self.temperature, self.bandwidth_km, *self.radius_scale.values()]
        if not all(np.isfinite(number) and number > 0 for number in numbers):
            raise ValueError("temperature, bandwidth and radius factors must be positive numbers")
        if any(not 0 < float(level) < 100 for level in self.radius_scale):
            raise ValueError("the keys of radius_scale must be percentages between 0 and 100")

    @property
    def identity(self) -> str:
        """A hash of what radii depend on, for `CALIBRATED_BY`."""
        text = json.dumps([self.temperature, self.bandwidth_km, sorted(self.radius_scale.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def apply(self, posterior: Posterior, prior: Density | None = None) -> Posterior:
        """Return the calibrated form of a head's raw posterior.

        With ranks of "ratio", claims can be judged only if the `prior` is given.
        """
        by_ratio = self.ranks_of == "ratio"
        ranks = self.ranks if prior is not None or not by_ratio else []
        scale = sorted((float(level) / 100, factor) for level, factor in self.radius_scale.items())
        return replace(
            posterior,
            log_weights=posterior.log_weights / self.temperature,
            bandwidth_km=self.bandwidth_km,
            radius_scale=tuple(scale),
            level_map=self.level_map,
            held_out_ranks=np.sort(ranks) if ranks else None,
            prior=prior(self.bandwidth_km) if prior is not None and by_ratio else None,
        )

    def to_json(self) -> str:
        """Return JSON text for `from_json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Read the text that `to_json` returned.

        Raises:
            ValueError: the text is not a calibration.
        """
        return checked(cls, parse_json(text, "the calibration"), "the calibration")

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """Read a file with the text of `to_json`.

        Raises:
            FileError: it cannot be read, or is not a calibration; the field is named.
        """
        return checked(cls, read_json(path, MAX_BYTES), path)


def identity_of(calibration: Calibration | None) -> str:
    """Return `Calibration.identity`, or "none" without a calibration."""
    return "none" if calibration is None else calibration.identity


def fit_calibration(
    posteriors: Sequence[Posterior],
    coordinates: NDArray[np.float64],
    source: str = "validation split",
    measure_coverage: bool = True,
    progress: Progress | None = None,
    prior: Density | None = None,
) -> Calibration:
    """Fit temperature, bandwidth and radius factors on held-out photos.

    Temperature and bandwidth minimise the mean negative log density at the true places. The
    radius factors are split-conformal: the ⌈(n + 1)·mass⌉-th smallest ratio of error to radius
    (Vovk et al. 2005), so that a new photo of the same kind is inside with that probability.

    Args:
        posteriors: raw posteriors of photos that the heads were not trained on.
        coordinates: (n, 2) where those photos were taken.
        source: description of the photos.
        measure_coverage: whether to measure `coverage` and `ranks`, each fold by a fit on the
            others.
        progress: called with (steps done, all steps).
        prior: density of the training photos, which do not include these photos; None: not known.

    Raises:
        ValueError: there are fewer than 10 photos, or not one posterior per photo.
    """
    truth = np.asarray(coordinates, dtype=np.float64).reshape(-1, 2)
    if len(posteriors) != len(truth):
        raise ValueError(f"{len(posteriors)} posteriors for {len(truth)} true coordinates")
    if len(truth) < 10:
        raise ValueError(f"calibration needs at least 10 photos, got {len(truth)}")
    # a subset of a large split is enough for two parameters
    stride = -(-len(truth) // MAX_FIT_PHOTOS)
    posteriors, truth = list(posteriors)[::stride], truth[::stride]
    held_out = _HeldOut(posteriors, truth, 1 + measure_coverage * FOLDS, progress)
    every = np.arange(len(truth))
    calibration = replace(held_out.fit(every), n=len(truth), source=source)
    few = slice(None, None, -(-len(truth) // MAX_LEVEL_PHOTOS))
    applied = [calibration.apply(posterior) for posterior in posteriors[few]]
    calibration = replace(calibration, level_map=fit_level_map(applied, truth[few]))
    if not measure_coverage:
        return calibration
    fold_of = every % FOLDS
    inside = np.zeros((len(truth), len(LEVELS)), dtype=bool)
    ranks: list[float] = []
    for fold in np.unique(fold_of):
        held = np.flatnonzero(fold_of == fold)
        other = held_out.fit(np.flatnonzero(fold_of != fold))
        errors, radii = held_out.errors_and_radii(other)
        factors = [other.radius_scale[_percent(level)] for level in LEVELS]
        scaled = np.clip(radii[held] * factors, 1e-3, HALF_CIRCUMFERENCE_KM)
        inside[held] = errors[held, None] <= scaled
        before = None if prior is None else prior(other.bandwidth_km)
        for i in held:
            judged = replace(other.apply(posteriors[i]), prior=before)
            ranks.append(float(judged.misfit(truth[i][None])[0]))
    shares = inside.mean(axis=0)
    coverage = {_percent(level): float(share) for level, share in zip(LEVELS, shares, strict=True)}
    return replace(
        calibration,
        coverage=coverage,
        ranks=rounded_ranks(ranks),
        ranks_of="mass" if prior is None else "ratio",
    )


class _HeldOut:
    """Raw posteriors of n held-out photos, with what fits on parts of them have in common.

    The grid searches of all fits try the same temperatures and bandwidths at first and mostly end
    at the same ones, so that each is computed once, for all photos.
    """

    def __init__(
        self,
        posteriors: Sequence[Posterior],
        truth: NDArray[np.float64],
        fits: int,
        progress: Progress | None,
    ) -> None:
        self.posteriors, self.truth = posteriors, truth
        self._progress, self._steps = progress, (1 + fits) * len(truth)
        self._done, self._fits = 0, 0
        self._density: dict[tuple[float, float], NDArray[np.float64]] = {}
        self._errors: dict[float, NDArray[np.float64]] = {}
        self._radii: dict[tuple[float, float], NDArray[np.float64]] = {}
        self._modes: dict[float, NDArray[np.float64]] = {}
        self._load()

    def _load(self) -> None:
        """Lay out weights and distances of all photos for `_log_density`."""
        rows = []
        for posterior, place in zip(self.posteriors, self.truth, strict=True):
            few = replace(posterior).condensed(MAX_FIT_POINTS)  # a copy keeps nothing
            chords = few.vectors - unit_vectors(place)
            # cosine − 1, from the chord: exact for near points, where subtracting would round to 0
            rows.append((few.log_weights, -(chords**2).sum(axis=1) / 2))
            self._advance()
        width = max(len(weights) for weights, _ in rows)
        self._weights = np.full((len(rows), width), -np.inf)
        self._fall = np.full((len(rows), width), -2.0)
        for row, (weights, fall) in enumerate(rows):
            self._weights[row, : len(weights)] = weights
            self._fall[row, : len(fall)] = fall

    def _advance(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(min(self._done, self._steps), self._steps)

    def fit(self, rows: NDArray[np.int64]) -> Calibration:
        """Return temperature, bandwidth and radius factors fitted on some of the photos."""
        temperature, bandwidth = self._fit_density(rows)
        plain = Calibration(temperature=temperature, bandwidth_km=bandwidth)
        errors, radii = self.errors_and_radii(plain)
        ratios = errors[rows, None] / radii[rows]
        scale = {
            _percent(level): conformal_quantile(ratios[:, column], level)
            for column, level in enumerate(LEVELS)
        }
        self._fits += 1
        self._done = max(self._done, (1 + self._fits) * len(self.truth) - 1)
        self._advance()
        return replace(plain, radius_scale=scale)

    def errors_and_radii(
        self, fitted: Calibration
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the errors (n,) in km and, for each of `LEVELS`, radii (n, 2) without factors."""
        temperature, key = fitted.temperature, (fitted.temperature, fitted.bandwidth_km)
        if key not in self._radii:
            plain = Calibration(temperature=temperature, bandwidth_km=fitted.bandwidth_km)
            known = self._modes.get(temperature)
            modes, radii = np.empty((len(self.truth), 2)), []
            for row, raw in enumerate(self.posteriors):
                posterior = plain.apply(raw)
                modes[row] = posterior.mode() if known is None else known[row]
                radii.append(posterior.radii_km(LEVELS, modes[row]))
                self._advance()
            self._modes[temperature] = modes
            self._errors[temperature] = haversine_km(self.truth, modes)
            self._radii[key] = np.array(radii)
        return self._errors[temperature], self._radii[key]

    def _fit_density(self, rows: NDArray[np.int64]) -> tuple[float, float]:
        """Return the temperature and bandwidth with the highest density, by a grid search."""
        log_t, log_b, half_t, half_b = 0.0, float(np.log(250.0)), np.log(16.0), np.log(25.0)
        for _ in range(4):
            best = (-np.inf, log_t, log_b)
            for t in np.linspace(log_t - half_t, log_t + half_t, 5):
                for b in np.clip(np.linspace(log_b - half_b, log_b + half_b, 5), *BANDWIDTH_RANGE):
                    density = self._log_density(float(t), float(b))[rows]
                    best = max(best, (float(density.mean()), float(t), float(b)))
            _, log_t, log_b = best
            half_t, half_b = half_t / 2.2, half_b / 2.2
        return float(np.exp(log_t)), float(np.exp(log_b))

    def _log_density(self, log_t: float, log_b: float) -> NDArray[np.float64]:
        """Return the log density (n,) at the true places, for a temperature and a bandwidth."""
        key = (log_t, log_b)
        if key not in self._density:
            kappa, log_norm = kernel(float(np.exp(log_b)))
            tempered = self._weights / np.exp(log_t)
            density = _log_sum_exp(tempered + kappa * self._fall) - _log_sum_exp(tempered)
            self._density[key] = density + log_norm
        return self._density[key]


def _log_sum_exp(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms (n,) of the sums of exp(terms) (n, k), with exp in single precision."""
    highest = terms.max(axis=1, keepdims=True)
    shifted = (terms - highest).astype(np.float32)
    sums: NDArray[np.float64] = np.exp(shifted).sum(axis=1, dtype=np.float64)
    logarithms: NDArray[np.float64] = highest[:, 0] + np.log(sums)
    return logarithms


def fit_level_map(
    posteriors: Sequence[Posterior], coordinates: NDArray[np.float64]
) -> tuple[float, float]:
    """Return slope and offset that make what levels claim as probable as they are right.

    Logistic regression of whether the unit is the true one on the log odds that are claimed, over
    all levels of all photos; the slope is positive, so that a larger unit stays more probable than
    one inside it.

    Args:
        posteriors: calibrated otherwise, of n photos that the model was not trained on.
        coordinates: (n, 2) where those were taken.
    """
    plain = [replace(posterior, level_map=(1.0, 0.0)) for posterior in posteriors]
    claimed, right = level_outcomes(plain, coordinates)
    # levels that are certain (a model of one country) tell nothing
    open_ = (claimed > 1e-6) & (claimed < 1 - 1e-6)
    if open_.sum() < 10 or right[open_].all() or not right[open_].any():
        return 1.0, 0.0
    odds, signs = logit(claimed[open_]), np.where(right[open_], 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> float:
        slope, offset = parameters
        # a weak preference for leaving the odds as they are, worth two answers
        prior = np.log(slope) ** 2 + offset**2
        return float(np.logaddexp(0, -signs * (slope * odds + offset)).sum() + prior)

    from scipy.optimize import minimize  # only for fitting: it takes long to import

    fitted = minimize(loss, np.array([1.0, 0.0]), bounds=[SLOPES, OFFSETS])
    slope, offset = (float(value) for value in fitted.x)
    return slope, offset


def rounded_ranks(ranks: Sequence[float], most: int = MAX_RANKS) -> list[float]:
    """Return ranks ascending, at most so many of them (evenly spaced quantiles), for JSON."""
    ordered = np.sort(np.asarray(ranks, dtype=np.float64))
    if len(ordered) > most:
        at = (np.arange(most) + 0.5) / most * len(ordered)
        ordered = ordered[at.astype(np.int64)]
    return [round(float(rank), 4) for rank in ordered]


def conformal_quantile(ratios: Sequence[float] | NDArray[np.float64], level: float) -> float:
    """Return the ⌈(n + 1)·level⌉-th smallest value (at most the largest), at least 0.001."""
    ordered = np.sort(np.asarray(ratios, dtype=np.float64))
    rank = int(np.ceil((len(ordered) + 1) * level))
    return max(float(ordered[min(rank, len(ordered)) - 1]), 1e-3)


def _percent(level: float) -> str:
    return f"{100 * level:g}"


def _user_calibration_path(name: str, fingerprint: str) -> Path:
    return cache_folders().calibrations / f"{name}-{fingerprint}.json"


def read_user_calibration(name: str, fingerprint: str) -> Calibration | None:
    """Return the user's calibration of a model with these weights, or None.

    Raises:
        CheckpointError: its file cannot be read.
    """
    path = _user_calibration_path(name, fingerprint)
    if not path.exists():
        return None
    try:
        return Calibration.read(path)
    except FileError as error:
        raise CheckpointError(f"{error}: delete it, or calibrate again") from error


def save_user_calibration(name: str, fingerprint: str, calibration: Calibration) -> Path:
    """Save a calibration of a model with these weights; return its file."""
    path = _user_calibration_path(name, fingerprint)
    write_atomically(path, calibration.to_json())
    return path
