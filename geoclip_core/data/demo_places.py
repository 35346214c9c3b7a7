"""Where and when the demo set's photos were "taken": towns of the ten states, drives, moments."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import EARTH_RADIUS_KM, destination, unit_vectors

# Cities of OSV-Mini-129k in each of its states; Texas and the total are counted, the rest is in
# proportion to the places that the gazetteer has there.
STATE_CITIES = {
    "Idaho": 75,
    "Kansas": 167,
    "Montana": 81,
    "Nebraska": 113,
    "Nevada": 49,
    "New Mexico": 117,
    "Oklahoma": 189,
    "Oregon": 167,
    "Texas": 557,
    "Wyoming": 78,
}
# Photos of OSV-Mini-129k's training split by month, January first.
MONTH_COUNTS = (5797, 3257, 4905, 4527, 12018, 8554, 18920, 13403, 12629, 15885, 8064, 11049)
PHOTOS_PER_DRIVE = 4
PHOTOS_PER_CITY = 30  # fewer cities in a small set, so that each can be learned
UNSEEN_SHARE = 0.06  # share of the test photos in towns that train does not have
_BOX = (25.9, 49.0, -124.5, -94.0)  # south, north, west, east of the ten states
_SITE_SPACING_KM = 2.2
_DRIVE_KM = 0.35
_TOWN_GAP_KM = 5.0


def demo_moments(
    coordinates: np.ndarray, drives: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Times of capture (n,) datetime64[ms], UTC: by daylight, one day a drive, months as counted.

    Args:
        coordinates: (n, 2) degrees.
        drives: (n,) number of the drive, from 0.
        generator: Chance.
    """
    count = int(drives.max()) + 1
    share = np.array(MONTH_COUNTS) / sum(MONTH_COUNTS)
    month = generator.choice(12, size=count, p=share)
    year = generator.integers(2014, 2024, count)
    start = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + month
    days = ((start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(int)
    day = start.astype("datetime64[D]") + (generator.random(count) * days).astype(int)
    # Nine to four by the sun: in UTC still the same day of the same month west of Greenwich.
    hour = generator.uniform(9, 15, count)[drives] - coordinates[:, 1] / 15
    hour += generator.uniform(0, 0.5, len(drives))
    within = (hour * 3_600_000).astype("timedelta64[ms]")
    return day[drives].astype("datetime64[ms]") + within


def demo_coordinates(
    rows: int, test_rows: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place photos along drives around towns, few towns often and many seldom.

    Drives are more than 1 km apart, and a drive is in train or test as a whole: nothing leaks.
    Most test photos are in towns that train has too, some are not.

    Returns:
        coordinates (rows, 2) in degrees, drive (rows,) int, is_test (rows,) bool.
    """
    towns = _towns(rows, generator)
    centres = towns[["latitude", "longitude"]].to_numpy()
    unseen_rows = round(UNSEEN_SHARE * test_rows)
    unseen_towns = min(len(towns) // 4, int(np.ceil(unseen_rows / 4))) if unseen_rows else 0
    order = generator.permutation(len(towns))
    unseen, seen = order[:unseen_towns], order[unseen_towns:]
    # Zipf: the town of rank r has a share of r^-0.6.
    weight = np.arange(1, len(seen) + 1) ** -0.6
    town = generator.choice(seen, size=rows - unseen_rows, p=weight / weight.sum())
    if unseen_towns:
        town = np.append(town, generator.choice(unseen, size=unseen_rows))
    town = np.sort(town)
    spot, spots, only_train = np.empty(rows, dtype=np.int64), [], []
    for index in np.unique(town):
        here = np.flatnonzero(town == index)
        sites = _sites(centres[index], towns["radius_km"].iloc[index], generator)
        sites = sites[: max(1, round(len(here) / PHOTOS_PER_DRIVE))]
        spot[here] = len(only_train) + generator.integers(0, len(sites), len(here))
        spots.append(sites)
        # One drive of a town stays in train, so that a town is known unless it is meant not to be.
        only_train += [position == 0 for position in range(len(sites))]
    used, drive = np.unique(spot, return_inverse=True)
    heading = generator.uniform(0, 180, len(used))[drive]
    along = generator.uniform(-_DRIVE_KM, _DRIVE_KM, rows)
    middle = np.concatenate(spots)[used][drive]
    coordinates = destination(middle, heading, along)
    abroad = ~Gazetteer.load().frame(coordinates)["region"].isin(STATE_CITIES).to_numpy()
    coordinates[abroad] = middle[abroad]
    is_test = np.isin(town, unseen)
    candidates = generator.permutation(np.flatnonzero(~np.array(only_train)[used]))
    sizes, total = np.bincount(drive), int(is_test.sum())
    for candidate in candidates:
        first = np.flatnonzero(drive == candidate)[:1]
        if not is_test[first].any() and total + sizes[candidate] <= test_rows:
            is_test[drive == candidate] = True
            total += int(sizes[candidate])
    return coordinates, drive, is_test


def _towns(rows: int, generator: np.random.Generator) -> pd.DataFrame:
    """Towns to photograph: state, latitude, longitude and radius_km, in a random order."""
    south, north, west, east = _BOX
    probe = np.stack(np.meshgrid(np.arange(south, north, 0.1), np.arange(west, east, 0.1)), -1)
    probe = probe.reshape(-1, 2)
    probe = probe[ClimateRaster.load().is_land(probe)]
    places = {
        (place.latitude, place.longitude): place.state
        for place in Gazetteer.load().places(probe)
        if place.country == "US" and place.state in STATE_CITIES
    }
    towns = pd.DataFrame([(*at, state) for at, state in sorted(places.items())])
    towns.columns = ["latitude", "longitude", "state"]
    vectors = unit_vectors(towns[["latitude", "longitude"]].to_numpy()) * EARTH_RADIUS_KM
    towns["room_km"] = cKDTree(vectors).query(vectors, k=2)[0][:, 1]
    towns = towns.iloc[generator.permutation(len(towns))]
    towns = towns[towns["room_km"] > _TOWN_GAP_KM]
    total = sum(STATE_CITIES.values())
    wanted = min(max(round(rows / PHOTOS_PER_CITY), len(STATE_CITIES)), total)
    quota = towns["state"].map(
        {s: max(1, round(n * wanted / total)) for s, n in STATE_CITIES.items()}
    )
    towns = towns[towns.groupby("state").cumcount() < quota].reset_index(drop=True)
    # Nearer to this town than to any other, and clear of the drives of the next.
    towns["radius_km"] = (0.45 * towns["room_km"] - 0.9).clip(0.0, 12.0)
    return towns


def _sites(centre: np.ndarray, radius_km: float, generator: np.random.Generator) -> np.ndarray:
    """Middles of drives around a town (k, 2), over 1 km clear of each other, in random order."""
    steps = np.arange(-7, 8)
    column, row = (part.ravel() for part in np.meshgrid(steps, steps))
    x = (column + 0.5 * (row % 2)) * _SITE_SPACING_KM
    y = row * _SITE_SPACING_KM * np.sqrt(0.75)
    distance, heading = np.hypot(x, y), np.degrees(np.arctan2(x, y)) + generator.uniform(0, 360)
    inside = distance <= radius_km
    sites = destination(centre, heading[inside], distance[inside])
    here = [(place.latitude, place.longitude) for place in Gazetteer.load().places(sites)]
    good = ClimateRaster.load().is_land(sites) & (np.array(here) == centre).all(axis=1)
    sites = sites[good] if good.any() else sites[distance[inside] == 0]
    return sites[generator.permutation(len(sites))]
