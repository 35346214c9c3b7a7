"""The estimate for one photo, with named places and radii."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.gazetteer import Gazetteer, NamedPlace, Place
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.model.domain import Domain, Familiarity
from geoclip_core.model.map_context import LIKELY, Level, Region, place_levels
from geoclip_core.model.posterior import Posterior

Verdict = Literal["fits", "cannot be ruled out", "speaks against it"]
"""What a photo says about a claimed place; never that the claim is true or false."""
SIGNIFICANT = 0.05
"""A claim with a smaller p-value is spoken against."""
MOST_POINTS = 4096
"""Places of a claimed country or state that are tried."""
NO_PRIOR_LOG_DENSITY = float(np.log(1e-12))
"""Log density per km² under which no training photo is near: less than 1 in 2,000 Earths."""
RADIUS_MASSES = (0.5, 0.9)
"""Shares of the probability for which a radius is given."""


@dataclass(frozen=True)
class Exif:
    """What a photo's metadata say: position (degrees), time, camera; not used for the estimate."""

    latitude: float | None
    longitude: float | None
    captured_at: datetime | None
    source: str = "EXIF"
    """Where the position, or else the time, was found: "EXIF", "XMP", or the file beside it."""
    camera: str | None = None
    """Make and model: "Canon EOS 5D"."""


@dataclass(frozen=True)
class Candidate:
    """A place that a photo may show; coordinates in degrees."""

    latitude: float
    longitude: float
    probability: float
    place: Place


@dataclass(frozen=True)
class Claim:
    """How well a photo fits a claimed place. It is evidence, not proof, for or against."""

    name: str
    """The place, with larger places and its level: "Texas, United States (state)"."""
    level: str
    """Its level ("town", ..., "continent"), or "coordinates"."""
    latitude: float
    """Degrees; of a county or larger place, the point in it that fits best."""
    longitude: float
    distance_km: float
    """From the estimate to the place; 0 if the estimate lies in it."""
    inside: dict[float, bool]
    """0.5, 0.9 -> whether the place reaches into the highest-density region with that mass."""
    better_mass: float
    """Share of the posterior's mass in places that fit better."""
    likelihood_ratio: float | None
    """How much more likely the place is than under the prior, the density of the training photos;
    None: unknown, or no training photo near it."""
    p_value: float | None
    """Share of photos that fit their own true place as poorly as this, or worse; None: the model
    has no record of held-out photos, or hints were given."""
    held_out: int
    """Number of held-out photos behind the p-value."""
    far_from_training: bool = False
    """Whether no training photo lies near the place, so that the model cannot know it."""

    @property
    def verdict(self) -> Verdict:
        """By the p-value: below 5 % speaks against, from 50 % on fits; by the regions without."""
        fit = self.p_value
        if fit is None:  # of a right posterior, the share of photos that fit worse
            fit = 1 - self.better_mass
            against = not self.inside[0.9]
        else:
            against = fit < SIGNIFICANT
        return "speaks against it" if against else "fits" if fit >= 0.5 else "cannot be ruled out"

    @property
    def sentences(self) -> tuple[str, ...]:
        """The numbers in words, one sentence each."""
        where = {
            (True, True): "Inside the 50 % region.",
            (False, True): "Inside the 90 % region, outside the 50 % region.",
            (False, False): "Outside the 90 % region.",
        }[self.inside[0.5], self.inside[0.9]]
        near = (
            "The estimate lies in it."
            if self.distance_km == 0
            else (f"{self.distance_km:,.0f} km from the estimate.")
        )
        better = f"{self.better_mass:.0%} of the probability lies in places that fit better."
        said = [near, where, better.replace("%", " %")]
        if self.far_from_training:
            said.append("No training photo lies near it, so the model does not know the place.")
        elif self.likelihood_ratio is not None:
            said.append(f"{_times(self.likelihood_ratio)} as likely as before seeing the photo.")
        if self.p_value is None:
            said.append(
                "No p-value: this model has no record of how well held-out photos fit their place "
                "(or hints were given)."
            )
        else:
            said.append(
                "If the photo was taken there, a fit this poor would be seen in "
                f"{_percent(self.p_value)} of photos "
                f"(by {self.held_out:,} held-out photos)."
            )
        return tuple(said)


def _percent(share: float) -> str:
    return f"{100 * share:.{'1g' if share < 0.01 else '0f'}} %"


def _times(ratio: float) -> str:
    """Return a ratio in words: "3.2 times", "1/4 times" as a plain number with two digits."""
    if ratio >= 100:
        return "Over 100 times" if ratio < 1000 else "Over 1,000 times"
    return f"{ratio:.2g} times" if ratio >= 0.01 else "Less than 0.01 times"


@dataclass(frozen=True)
class SimilarPhoto:
    """A training photo that looks like the photo in question."""

    similarity: float
    """Cosine of the two embeddings: 1 for the same photo."""
    latitude: float
    longitude: float
    distance_km: float
    """From the estimate."""
    place: Place
    root: Path | None = None
    """Folder of its dataset; None: only its place is known."""
    path: str | None = None
    """Its file, relative to `root`."""

    @property
    def file(self) -> Path | None:
        """Its file, or None if only its place is known."""
        return None if self.root is None or self.path is None else self.root / self.path


@dataclass(frozen=True)
class Similar:
    """The training photos that look most like a photo, the most similar first."""

    photos: tuple[SimilarPhoto, ...]
    note: str = ""
    """Why there are none, or only places; "" if nothing is missing."""


@dataclass(frozen=True)
class Prediction:
    """An estimate of where a photo was taken, with its uncertainty.

    Attributes:
        file: The path of the photo as it was given, or its name.
        model: Name of the model.
        latitude, longitude: Degrees; the point with the highest expected GeoScore.
        radius_km: Share of the probability (0.5, 0.9) -> radius in km of the circle around the
            point that contains it.
        candidates: Distinct places, the most probable first.
        context: Feature -> (label, probability) of every class, the most probable first.
        posterior: The whole distribution, for heatmaps.
        radius_note: Why the radii are other than the calibration's, or None.
        given: Feature -> what was given as known ("Chile"); empty without hints.
        region: Where on the map the hints hold, or None.
        without_given: The prediction for the same photo without the hints, or None.
        prior: Density of the model's training photos, or None if it is not known.
        familiarity: How much the photo is like the training photos, or None if it is not known.
        domain: What the training photos are, or None.
        claim: A claimed place that was checked, or None.
        misfits: Of several photos of one place, those that speak against the answer.
        similar: The training photos that look most like the photo; None: not asked for.
        place: The named place nearest to the point.
        exif: None if the photo has neither position nor time nor camera.
        seconds: Time taken, including reading the photo.
        calibrated: Whether the radii were fitted on held-out photos.
        context_source: "photo" if context heads predicted the context from the photo, "map" if it
            was looked up on the map under the posterior.
    """

    file: str
    model: str
    latitude: float
    longitude: float
    radius_km: dict[float, float]
    candidates: tuple[Candidate, ...]
    context: dict[str, list[tuple[str, float]]]
    posterior: Posterior
    place: Place
    exif: Exif | None = None
    seconds: float = 0.0
    calibrated: bool = False
    context_source: Literal["photo", "map"] = "photo"
    radius_note: str | None = None
    given: dict[str, str] = field(default_factory=dict)
    region: Region | None = None
    without_given: "Prediction | None" = None
    prior: Posterior | None = None
    familiarity: Familiarity | None = None
    domain: Domain | None = None
    claim: Claim | None = None
    misfits: tuple[str, ...] = ()
    similar: Similar | None = None

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The most probable continent, part of it, country, state, county and town.

        Each lies inside the one before; its probability is the mass of the posterior in the whole
        unit. Empty if all of the mass is at sea.
        """
        return place_levels(self.posterior, self.region)

    @property
    def moved_km(self) -> float | None:
        """How far hints moved the estimate, in km; None without hints."""
        if self.without_given is None:
            return None
        before = (self.without_given.latitude, self.without_given.longitude)
        return float(haversine_km((self.latitude, self.longitude), before))

    @property
    def hint_sentence(self) -> str | None:
        """How far the estimate moved and why: "8,123 km from Eqbaliyeh, ...: country Chile"."""
        if self.without_given is None or self.moved_km is None:
            return None
        known = ", ".join(f"{feature} {label}" for feature, label in self.given.items())
        return (
            f"With {known} given, the estimate moved {self.moved_km:,.0f} km, from "
            f"{self.without_given.place.label}."
        )

    @property
    def ladder(self) -> tuple[Level, ...]:
        """`levels` to be read: without a level that repeats the name and text of the one before.

        South America, for example, is a continent and a subcontinent.
        """
        said = [(level.short, level.percent) for level in self.levels]
        return tuple(
            level for at, level in enumerate(self.levels) if not at or said[at] != said[at - 1]
        )

    @property
    def unsure(self) -> bool:
        """Whether even the continent is uncertain: none holds half of the probability."""
        return not self.levels or self.levels[0].probability < LIKELY

    @property
    def headline(self) -> str:
        """The answer at the deepest level that holds at least half of the probability.

        "Probably Central Asia (61 %)", or "Perhaps Europe (38 %): not sure even of the continent";
        "In Chile (given)" if no more than what was given is known.
        """
        if not self.levels:
            return "Not sure: the estimate lies at sea"
        if self.unsure:
            first = self.levels[0]
            return f"Perhaps {first.name} ({first.percent}): not sure even of the continent"
        best = [level for level in self.levels if level.probability >= LIKELY][-1]
        if best.given:
            return f"In {best.name} (given)"
        return f"Probably {best.name} ({best.percent})"

    @property
    def warning(self) -> str | None:
        """Says that the photo is unlike the training photos, or None."""
        if self.familiarity is None or not self.familiarity.unusual:
            return None
        knows = "" if self.domain is None else f" ({self.model} {self.domain.words})"
        return (
            f"Unlike the training photos{knows}: the answer may mean nothing. "
            f"Only {_percent(self.familiarity.share)} of held-out photos are as unlike."
        )

    def check(self, place: str | Sequence[float] | NamedPlace) -> Claim:
        """Return how well the photo fits a claimed place.

        Args:
            place: A name ("Aleppo, Syria", "Texas"), "36.2, 37.16", (latitude, longitude), or what
                `Gazetteer.find` returned. A county or larger place is judged by the point in it
                that fits best, which makes the p-value too large rather than too small. The other
                numbers are those of its densest point.

        Raises:
            PlaceError: No place has this name, or several do; with suggestions.
        """
        gazetteer = Gazetteer.load()
        if isinstance(place, NamedPlace):
            named = place
        else:
            text = place if isinstance(place, str) else ", ".join(str(float(v)) for v in place)
            named = gazetteer.find(text)
        points = named.points[:: -(-len(named.points) // MOST_POINTS)]
        density = self.posterior.log_density(points)
        best = points[int(density.argmax())]
        better = float(self.posterior.better_mass(best[None])[0])
        # the mass of denser places is least at the densest point
        tried = best[None] if self.posterior.prior is None else points
        p_values = self.posterior.p_values(self.posterior.misfit(tried))
        pin = np.array([self.latitude, self.longitude])
        distance = float(haversine_km(named.points, pin).min())
        if named.level != "coordinates":
            units = gazetteer.units(named.level)
            row, _ = gazetteer.nearest_in_degrees(pin[None])
            here = int(units.of_place[row[0]])
            distance = 0.0 if here >= 0 and units.keys[here] == named.key else distance
        ranks = self.posterior.held_out_ranks
        ratio = self._ratio(best, float(density.max()))
        return Claim(
            name=named.label,
            level=named.level,
            latitude=float(best[0]),
            longitude=float(best[1]),
            distance_km=distance,
            inside={mass: better < mass for mass in RADIUS_MASSES},
            better_mass=better,
            likelihood_ratio=ratio,
            p_value=None if p_values is None else float(p_values.max()),
            held_out=0 if p_values is None or ranks is None else len(ranks),
            far_from_training=ratio is None and self.prior is not None,
        )

    def _ratio(self, point: NDArray[np.float64], log_density: float) -> float | None:
        """Return the density at a point (2,) over that of the training photos."""
        if self.prior is None:
            return None
        before = float(self.prior.log_density(point[None])[0])
        return float(np.exp(log_density - before)) if before > NO_PRIOR_LOG_DENSITY else None

    @property
    def error_km(self) -> float | None:
        """Great-circle distance in km from the EXIF position, or None if there is none."""
        if self.exif is None or self.exif.latitude is None or self.exif.longitude is None:
            return None
        truth = (self.exif.latitude, self.exif.longitude)
        return float(haversine_km((self.latitude, self.longitude), truth))


@dataclass(frozen=True)
class Failure:
    """A photo that could not be read, and the reason in one sentence."""

    file: str
    error: str


def labelled(names: Sequence[str], probabilities: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Return (name, probability) of every class, the most probable first."""
    order = sorted(range(len(names)), key=lambda index: -probabilities[index])
    return [(names[index], float(probabilities[index])) for index in order]
