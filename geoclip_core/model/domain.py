"""What a model knows: where, when and of what its training photos are, and what is unlike them."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Interval, Len
from numpy.typing import ArrayLike, NDArray

from geoclip_core.checks import STRICT, checked
from geoclip_core.earth.gazetteer import country_name
from geoclip_core.files import read_json
from geoclip_core.model.calibration import MAX_RANKS, rounded_ranks
from geoclip_core.model.posterior import Posterior

if TYPE_CHECKING:  # imports pandas, which takes a second
    from geoclip_core.data.dataset import PhotoDataset

STEP_DEGREES = 2.5
"""Side of a cell of the grid: about 280 km, so that no photo can be found by it."""
FALSE_ALARMS = 0.01
"""Share of photos like the training photos that may be called unlike them."""
MAX_BYTES = 4 * 10**6
Count = Annotated[int, Interval(ge=0, le=10**12)]
Date = Annotated[str, Len(10, 10)]
Latitude = Annotated[float, Interval(ge=-90, le=90)]
Longitude = Annotated[float, Interval(ge=-180, le=180)]
Score = Annotated[float, Interval(ge=-1000, le=1000)]
_DEGREE_KM = 111.2


def grid_cells(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cells of `STEP_DEGREES` that hold photos (n, 2): (m, 3) centre and number."""
    corner = np.floor(coordinates / STEP_DEGREES) * STEP_DEGREES
    centres, counts = np.unique(corner + STEP_DEGREES / 2, axis=0, return_counts=True)
    centres[:, 0] = np.minimum(centres[:, 0], 90.0)  # the cell of the North Pole begins there
    return np.column_stack([centres, counts])


def cell_density(cells: NDArray[np.float64], bandwidth_km: float) -> Posterior:
    """Return the density of the photos in cells (m, 3), smoothed by at least half a cell."""
    width = max(bandwidth_km, STEP_DEGREES / 2 * _DEGREE_KM)
    return Posterior(cells[:, :2], np.log(np.maximum(cells[:, 2], 1e-9)), width)


@dataclass(frozen=True)
class Familiarity:
    """How much a photo is like the training photos of a model."""

    score: float
    """`EmbeddingNormaliser.unlikeness`: about 0 for photos of the same kind."""
    threshold: float
    """Score that 1 % (`FALSE_ALARMS`) of held-out photos exceed."""
    share: float
    """Share of held-out photos that are as unlike, or more; a conformal p-value."""

    @property
    def unusual(self) -> bool:
        """Whether the photo is unlike the training photos."""
        return self.score > self.threshold


@dataclass(frozen=True)
class Domain:
    """The training photos of a model, in numbers."""

    __pydantic_config__ = STRICT

    photos: Annotated[int, Interval(ge=1, le=10**12)]
    """Number of photos."""
    drawn: bool
    """Whether they are drawn scenes that show no real place."""
    countries: Annotated[dict[str, Count], Len(0, 1000)]
    """ISO 3166 code -> number of photos, most first."""
    states: Count
    """Number of states (regions)."""
    first: Date | None
    """Date of the earliest photo; None: no photo is dated."""
    last: Date | None
    """Date of the latest photo."""
    cells: Annotated[tuple[tuple[Latitude, Longitude, Count], ...], Len(1, 20_000)]
    """Latitude and longitude of the centre of each cell of `STEP_DEGREES` with photos, and their
    number."""
    held_out_scores: Annotated[tuple[Score, ...], Len(0, 10**4)] = ()
    """`EmbeddingNormaliser.unlikeness` of photos that the model was not trained on, ascending;
    empty: not measured."""

    @classmethod
    def of(cls, photos: "PhotoDataset", held_out_scores: ArrayLike = ()) -> "Domain":
        """Return the domain of training photos.

        Args:
            photos: at least one.
            held_out_scores: (n,) unlikeness of photos that were not trained on; at most `MAX_RANKS`
                quantiles of them are kept.
        """
        dates = photos.table["captured_at"].dropna()
        countries = photos.table["country_key"].value_counts()
        scores = np.sort(np.asarray(held_out_scores, dtype=np.float64))
        if len(scores) > MAX_RANKS:
            scores = np.quantile(scores, (np.arange(MAX_RANKS) + 0.5) / MAX_RANKS)
        return cls(
            photos=len(photos),
            drawn=photos.synthetic,
            countries={str(code): int(n) for code, n in countries.items()},
            states=int(photos.table["state_key"].nunique()),
            first=None if dates.empty else f"{dates.min():%Y-%m-%d}",
            last=None if dates.empty else f"{dates.max():%Y-%m-%d}",
            cells=tuple(
                (float(lat), float(lon), int(n)) for lat, lon, n in grid_cells(photos.coordinates)
            ),
            held_out_scores=tuple(round(float(score), 4) for score in scores),
        )

    def merged(self, other: "Domain") -> "Domain":
        """Return the domain of the photos of both.

        The number of states is the larger one, since which states they are is not recorded. Of each
        `held_out_scores` at most one per photo counts, so that repeats do not outweigh photos.
        """
        countries = Counter(self.countries) + Counter(other.countries)
        cells: Counter[tuple[float, float]] = Counter()
        for domain in (self, other):
            for latitude, longitude, count in domain.cells:
                cells[latitude, longitude] += count
        dates = sorted(d for part in (self, other) for d in (part.first, part.last) if d)
        scores = [rounded_ranks(part.held_out_scores, part.photos) for part in (self, other)]
        return Domain(
            photos=self.photos + other.photos,
            drawn=self.drawn and other.drawn,
            countries=dict(countries.most_common()),
            states=max(self.states, other.states),
            first=dates[0] if dates else None,
            last=dates[-1] if dates else None,
            cells=tuple((*at, count) for at, count in sorted(cells.items())),
            held_out_scores=tuple(rounded_ranks([*scores[0], *scores[1]])),
        )

    @property
    def words(self) -> str:
        """What the model knows in half a line: "knows 240 drawn scenes of 10 US states"."""
        what = f"{self.photos:,} {'drawn scenes' if self.drawn else 'photos'}"
        if not self.countries:
            return f"knows {what}"
        first = next(iter(self.countries))
        if len(self.countries) == 1:
            name = "US" if first == "US" else country_name(first)
            area = f"{self.states} {name} states" if self.states > 1 else country_name(first)
        else:
            share = self.countries[first] / sum(self.countries.values())
            area = f"{len(self.countries)} countries ({country_name(first)} {100 * share:.0f} %)"
        when = "" if self.first is None or self.last is None else f", {self._years()}"
        return f"knows {what} of {area}{when}"

    def _years(self) -> str:
        first, last = str(self.first)[:4], str(self.last)[:4]
        return first if first == last else f"{first}–{last}"

    @cached_property
    def _priors(self) -> dict[float, Posterior]:
        return {}

    def prior(self, bandwidth_km: float) -> Posterior:
        """Return the density of the training photos, smoothed by at least half a cell."""
        if bandwidth_km not in self._priors:  # asked for with every photo
            self._priors[bandwidth_km] = cell_density(np.array(self.cells), bandwidth_km)
        return self._priors[bandwidth_km]

    @property
    def threshold(self) -> float | None:
        """The score above which a photo is called unlike the training photos; None: unknown."""
        scores = sorted(self.held_out_scores)
        if not scores:
            return None
        rank = min(int(np.ceil((len(scores) + 1) * (1 - FALSE_ALARMS))), len(scores))
        return scores[rank - 1]

    def familiarity(self, score: float) -> Familiarity | None:
        """Return what a photo's unlikeness means; None if no held-out photos were measured."""
        threshold = self.threshold
        if threshold is None:
            return None
        count = len(self.held_out_scores)
        below = sum(held_out < score for held_out in self.held_out_scores)
        return Familiarity(score, threshold, (1 + count - below) / (1 + count))

    def to_json(self) -> str:
        """Return JSON text for `read`, with one line per field."""
        fields = (f'  "{key}": {json.dumps(value)}' for key, value in asdict(self).items())
        return "{\n" + ",\n".join(fields) + "\n}\n"

    @classmethod
    def read(cls, path: Path) -> "Domain":
        """Read a file with the text of `to_json`.

        Raises:
            FileError: it cannot be read, or is not a domain; the field is named.
        """
        return checked(cls, read_json(path, MAX_BYTES), path)
