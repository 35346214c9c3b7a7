"""Predictions on the map: best guesses, candidates, circles, heatmap, and the truth if known."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from geoclip_core.locator import Prediction
from geoclip_core.model.posterior import Posterior
from ui import map_shapes
from ui.maps import OfflineMap
from ui.theme import kilometres, percent, rgb, translucent

LAYERS = ("Radius", "Candidates", "Heatmap")
"""What may be drawn besides the pins."""

_LISTED = 6
"""How many photos the label of a shared pin names."""

_NOTABLE = 0.02
"""Probability from which a candidate belongs into the first view."""

DETAILED = 6
"""Up to so many predictions have their radius drawn; with more, the map would be all circles."""


def prediction_map(
    predictions: Sequence[Prediction],
    numbers: Sequence[int],
    layers: Sequence[str] = ("Radius", "Candidates"),
) -> OfflineMap:
    """A map of one or more predictions.

    Args:
        predictions: what to show; none gives the plain world.
        numbers: the number of each one's card.
        layers: which of ``LAYERS`` to draw.

    With one prediction its candidates and both circles are drawn; with several, pins with the
    circles of 50 %, so that they can be told apart.
    """
    alone = len(predictions) == 1
    circles = "Radius" in layers and len(predictions) <= DETAILED
    world = OfflineMap(
        [point for prediction in predictions for point in _focus(prediction, circles, alone)],
        middle=map_shapes.middle_longitude([prediction.longitude for prediction in predictions]),
    )
    legend: dict[str, str] = {}
    if "Heatmap" in layers and predictions:
        posterior = _together([prediction.posterior for prediction in predictions])
        image = heat_image(posterior, world.window, world.colours.candidate)
        world.add_image(image, world.window, "Heatmap", opacity=0.85)
        legend["Probability"] = translucent(world.colours.candidate, 0.45)
    for prediction in predictions:
        if circles:
            _add_circles(world, prediction, alone)
            legend["Half of such photos (dashed: 90 %)" if alone else "Half of such photos"] = (
                translucent(world.colours.best, 0.35)
            )
        if "Candidates" in layers and alone:
            for rank, candidate in enumerate(prediction.candidates, 1):
                label = f"{rank}. {candidate.place.label}\n{percent(candidate.probability)}"
                at = (candidate.latitude, candidate.longitude)
                world.add_point(at, "candidate", label, share=candidate.probability)
    for prediction in predictions:
        _add_truth(world, prediction)
    for spot in _spots(predictions, numbers):
        labels = [f"{n} · {describe(prediction)}" for n, prediction in spot[:_LISTED]]
        if len(spot) > _LISTED:
            labels.append(f"and {len(spot) - _LISTED} more")
        best = spot[0][1]
        pin = _pin_text([n for n, _ in spot])
        world.add_point((best.latitude, best.longitude), "best", "\n".join(labels), text=pin)
    return world.finish(legend)


def _spots(
    predictions: Sequence[Prediction], numbers: Sequence[int]
) -> list[list[tuple[int, Prediction]]]:
    """Predictions gathered by their point: models that answer with known places repeat them."""
    spots: dict[tuple[float, float], list[tuple[int, Prediction]]] = {}
    for number, prediction in zip(numbers, predictions, strict=True):
        point = (round(prediction.latitude, 3), round(prediction.longitude, 3))
        spots.setdefault(point, []).append((number, prediction))
    return list(spots.values())


def _pin_text(numbers: Sequence[int]) -> str:
    if len(numbers) <= 3:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]} +{len(numbers) - 1}"


def describe(prediction: Prediction) -> str:
    """The label of a pin: name, place and radius."""
    half, most = prediction.radius_km[0.5], prediction.radius_km[0.9]
    return (
        f"{prediction.file}\nEstimate: {prediction.place.label}\n"
        f"50 % within {kilometres(half)}, 90 % within {kilometres(most)}"
    )


def heat_image(posterior: Posterior, window: map_shapes.Window, colour: str) -> NDArray[np.uint8]:
    """A posterior as an image for ``OfflineMap.add_image``: the denser, the less clear."""
    density = _density(posterior, window)
    share = (density / max(density.max(), 1e-300)) ** 0.65  # faint tails still show
    image = np.empty((*share.shape, 4), dtype=np.uint8)
    image[..., :3] = rgb(colour)
    image[..., 3] = np.round(235 * np.clip((share - 0.04) / 0.96, 0, 1))
    return image


@lru_cache(maxsize=32)
def _density(posterior: Posterior, window: map_shapes.Window) -> NDArray[np.float64]:
    """Density on the lattice of a window, interpolated from a grid of 240 columns or more."""
    step = min(1.0, (window.east - window.west) / 240)
    bounds = (window.south, window.west, window.north, window.east)
    grid = posterior.density_grid(step, bounds)
    lattice = window.lattice(720)
    longitude = window.west + (lattice[0, :, 1] - window.west) % 360
    interpolate = RegularGridInterpolator(
        (grid.latitudes, grid.longitudes), grid.density, bounds_error=False, fill_value=None
    )
    mesh = np.meshgrid(lattice[:, 0, 0], longitude, indexing="ij")
    return np.maximum(interpolate(tuple(mesh)), 0.0)


def _together(posteriors: Sequence[Posterior]) -> Posterior:
    """The mixture of several posteriors, each with the same weight."""
    if len(posteriors) == 1:
        return posteriors[0]
    return _mixture(tuple(posteriors))


@lru_cache(maxsize=8)
def _mixture(posteriors: tuple[Posterior, ...]) -> Posterior:
    return Posterior(
        np.concatenate([posterior.points for posterior in posteriors]),
        np.concatenate([posterior.log_weights for posterior in posteriors]),
        float(np.median([posterior.bandwidth_km for posterior in posteriors])),
    )


def _focus(prediction: Prediction, circles: bool, candidates: bool) -> list[map_shapes.Coordinate]:
    best = (prediction.latitude, prediction.longitude)
    points = [best]
    if prediction.error_km is not None and prediction.exif is not None:
        points.append((float(prediction.exif.latitude or 0), float(prediction.exif.longitude or 0)))
    if circles or candidates:
        points += map_shapes.around(best, prediction.radius_km[0.5])
    if candidates:
        points += [
            (c.latitude, c.longitude) for c in prediction.candidates if c.probability > _NOTABLE
        ]
    return points


def _add_circles(world: OfflineMap, prediction: Prediction, both: bool) -> None:
    best = (prediction.latitude, prediction.longitude)
    half, most = prediction.radius_km[0.5], prediction.radius_km[0.9]
    if both:
        label = f"90 %: within {kilometres(most)} of the best guess"
        world.add_circle(best, most, world.colours.best, label, dashed=True)
    label = f"50 %: within {kilometres(half)} of the best guess"
    world.add_circle(best, half, world.colours.best, label)


def _add_truth(world: OfflineMap, prediction: Prediction) -> None:
    if prediction.error_km is None or prediction.exif is None:
        return
    truth = (float(prediction.exif.latitude or 0), float(prediction.exif.longitude or 0))
    away = f"{prediction.file}\nPosition in its EXIF, {kilometres(prediction.error_km)} away"
    world.add_line((prediction.latitude, prediction.longitude), truth, away)
    world.add_point(truth, "truth", away)
