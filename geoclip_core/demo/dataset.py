"""Make the demo set: a synthetic OSV-Mini-129k with all columns of its files and drawn photos."""

import contextlib
import functools
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from geoclip_core.data.dataset import (
    ATTRIBUTION,
    COLUMNS,
    check_output,
    csv_path,
    photo_paths,
    write_description,
)
from geoclip_core.demo.scenes import SceneFacts, draw_scene
from geoclip_core.earth.climate import ClimateRaster, climate_classes, index_of_code
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import EARTH_RADIUS_KM, destination, unit_vectors
from geoclip_core.files import atomic_folder
from geoclip_core.processes import Progress, in_processes

# Number of cities of OSV-Mini-129k in each of its states. Texas and the total are counted, the
# others estimated in proportion to the places in the gazetteer.
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
PHOTOS_PER_CITY = 30  # a small set has fewer cities, so that each can be learned
UNSEEN_SHARE = 0.06  # share of the test photos in towns without training photos
_BOX = (25.9, 49.0, -124.5, -94.0)  # south, north, west, east of the ten states
_SITE_SPACING_KM = 2.2  # between the middles of the drives of a town
_DRIVE_KM = 0.35  # from the middle of a drive to its ends
_TOWN_GAP_KM = 5.0  # least distance of a town to the nearest place

MADE_BY = "demo-data"
JPEG_QUALITY = 85
NOTE = (
    "Synthetic: drawn scenes, not photographs. Signs, poles and landmarks are invented. "
    + ATTRIBUTION
)

# Share of rows that lack the value, as in files made from street photos.
_MISSING = {"captured_at": 0.01, "climate": 0.004, "sub-region": 0.006, "city": 0.004}
# Points (latitude, longitude) on the Pacific and Gulf coasts near the ten states, for dist_sea.
_COAST = (
    *((46.2, -124.0), (42.0, -124.3), (37.8, -122.5), (34.0, -118.5), (31.3, -113.5)),
    *((26.0, -97.1), (27.8, -97.0), (29.3, -94.8), (29.6, -93.0)),
)


def write_demo(
    output: Path | str,
    rows: int = 2000,
    *,
    seed: int = 0,
    test_fraction: float = 0.15,
    metadata_only: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a demo set in the layout of OSV-Mini-129k, and return its folder.

    The same arguments give the same bytes in every CSV and the same pixels. A demo set at `output`
    is replaced when the new one is complete.

    Args:
        output: The folder to write.
        rows: Number of photos in train and test together.
        seed: Determines places, times and scenes.
        test_fraction: Share of the rows in the test split.
        metadata_only: Whether to write the CSVs without photos.
        workers: Processes that draw; by default one per core.
        progress: Called with the number of photos drawn and the total.

    Raises:
        ValueError: fewer than 20 rows, a share outside 0 to 0.5, or `output` contains something
            else.
    """
    output = Path(output)
    check_output(output, MADE_BY)
    if rows < 20:
        raise ValueError(f"a demo set needs at least 20 rows, not {rows}")
    if not 0 <= test_fraction <= 0.5:
        raise ValueError(f"the share of test rows must be between 0 and 0.5, not {test_fraction}")
    frame, scenes = demo_table(rows, seed=seed, test_fraction=test_fraction)
    with atomic_folder(output) as folder:
        for split, part in frame.groupby("split"):
            path = csv_path(folder, str(split))
            part.drop(columns="split").to_csv(path, index=False, lineterminator="\n")
        description = {"name": output.name, "synthetic": True, "made_by": MADE_BY}
        write_description(folder, description | {"rows": rows, "seed": seed, "note": NOTE})
        if not metadata_only:
            _draw_all(folder, frame, scenes, seed, workers, progress)
    return output


def demo_table(
    rows: int, *, seed: int = 0, test_fraction: float = 0.15
) -> tuple[pd.DataFrame, list[SceneFacts]]:
    """Return a demo set: a table of `COLUMNS` and ``split``, and the facts of each row's scene."""
    generator = np.random.default_rng([seed, 2018])
    coordinates, drive, is_test = demo_coordinates(rows, round(test_fraction * rows), generator)
    order = generator.permutation(rows)
    coordinates, drive, is_test = coordinates[order], drive[order], is_test[order]
    moments = demo_moments(coordinates, drive, generator)
    codes = ClimateRaster.load().codes(coordinates)
    places = Gazetteer.load().frame(coordinates).drop(columns="distance_km")
    frame = pd.DataFrame({"id": _new_ids(rows, generator)}, dtype="str")
    frame["latitude"], frame["longitude"] = coordinates.round(7).T
    frame["thumb_original_url"] = "https://synthetic.invalid/" + frame["id"] + ".jpg"
    frame["sequence"] = pd.Series(drive).map(lambda n: f"synthetic-{seed}-{n:06d}")
    frame["captured_at"] = pd.Series(moments.astype("int64")).astype("Int64")
    frame["climate"] = pd.Series(codes.astype("int64")).astype("Int64")
    frame = pd.concat([frame, places], axis=1)
    _other_columns(frame, coordinates, drive, generator)
    scenes = _scenes(frame, moments)
    for column, share in _MISSING.items():
        missing = generator.random(rows) < share
        frame.loc[missing, column] = pd.NA
        if f"unique_{column}" in frame:
            frame.loc[missing, f"unique_{column}"] = pd.NA
    frame = frame[list(COLUMNS)]
    frame["split"] = np.where(is_test, "test", "train")
    return frame, scenes


def _scenes(frame: pd.DataFrame, moments: np.ndarray) -> list[SceneFacts]:
    day = (moments.astype("datetime64[D]") - moments.astype("datetime64[Y]")).astype(int) + 1
    symbols = [climate.symbol for climate in climate_classes()]
    index = index_of_code(frame["climate"].to_numpy(dtype=np.int64)).clip(0)
    columns = (
        frame["id"].tolist(),
        frame["latitude"].tolist(),
        frame["longitude"].tolist(),
        [symbols[i] for i in index],
        day.tolist(),
        frame["unique_region"].tolist(),
        frame["unique_sub-region"].fillna("").tolist(),
        frame["unique_city"].tolist(),
    )
    return [SceneFacts(*facts) for facts in zip(*columns, strict=True)]


def _new_ids(rows: int, generator: np.random.Generator) -> list[str]:
    """Return distinct ids of 15 or 16 digits, like Mapillary's."""
    ids: dict[int, None] = {}
    while len(ids) < rows:
        ids |= dict.fromkeys(generator.integers(10**14, 10**16, rows - len(ids)).tolist())
    return [str(number) for number in ids]


def _other_columns(
    frame: pd.DataFrame,
    coordinates: np.ndarray,
    drive: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """Fill in the columns that this project does not read."""
    rows = len(frame)
    frame["lat_bin"] = np.floor((coordinates[:, 0] + 90) / 0.25).astype(int)
    frame["lon_bin"] = np.floor((coordinates[:, 1] + 180) / 0.25).astype(int)
    frame["cell"] = frame["lat_bin"].astype("str") + "_" + frame["lon_bin"].astype("str")
    for column in COLUMNS:
        if column.startswith("quadtree_10_"):
            frame[column] = _quadtree(coordinates, int(column.rsplit("_", 1)[1]))
    creator = generator.integers(0, 40, int(drive.max()) + 1)[drive]
    frame["creator_username"] = pd.Series(creator).map(lambda n: f"synthetic-{n:02d}")
    frame["creator_id"] = 10**14 + creator
    frame["land_cover"] = generator.integers(0, 12, rows)
    frame["road_index"] = generator.gamma(2.0, 1.5, rows).round(4)
    frame["drive_side"] = 1
    frame["soil"] = generator.integers(0, 14, rows)
    flat = coordinates * [1, np.cos(np.radians(38))]
    coast = np.array(_COAST) * [1, np.cos(np.radians(38))]
    degrees = np.sqrt(((flat[:, None] - coast[None]) ** 2).sum(-1)).min(1)
    frame["dist_sea"] = (111.2 * degrees).round(3)


def _quadtree(coordinates: np.ndarray, most: int) -> np.ndarray:
    """Quarter the world until no cell has more than `most` photos; return cell numbers (n,)."""
    cell = np.zeros(len(coordinates), dtype=np.int64)
    open_rows = np.arange(len(coordinates))
    for depth in range(1, 25):
        _, inverse, counts = np.unique(cell[open_rows], return_inverse=True, return_counts=True)
        open_rows = open_rows[counts[inverse] > most]
        if not len(open_rows):
            break
        share = (coordinates[open_rows] + [90, 180]) / [180, 360] * 2**depth
        row, column = np.floor(share).astype(np.int64).T
        cell[open_rows] = (depth << 52) + (row << 26) + column
    return np.unique(cell, return_inverse=True)[1]


def demo_moments(
    coordinates: np.ndarray, drives: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return capture times (n,) datetime64[ms], UTC: in daylight, months as in `MONTH_COUNTS`.

    Takes coordinates (n, 2) in degrees and the numbers (n,) of the drives, from 0. All photos of a
    drive are of one day.
    """
    count = int(drives.max()) + 1
    share = np.array(MONTH_COUNTS) / sum(MONTH_COUNTS)
    month = generator.choice(12, size=count, p=share)
    year = generator.integers(2014, 2024, count)
    start = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + month
    days = ((start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(int)
    day = start.astype("datetime64[D]") + (generator.random(count) * days).astype(int)
    # 9:00 to 15:30 solar time; in the ten states that is the same day in UTC.
    hour = generator.uniform(9, 15, count)[drives] - coordinates[:, 1] / 15
    hour += generator.uniform(0, 0.5, len(drives))
    within = (hour * 3_600_000).astype("timedelta64[ms]")
    moments: np.ndarray = day[drives].astype("datetime64[ms]") + within
    return moments


def demo_coordinates(
    rows: int, test_rows: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place photos along drives around towns; a few towns have most of the photos.

    Drives are more than 1 km apart and entirely in train or in test, so no test photo is near a
    training photo. Most test photos are in towns that also have training photos.

    Returns:
        Coordinates (rows, 2) in degrees, drive numbers (rows,) and the mask (rows,) of test photos.
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
    spot = np.empty(rows, dtype=np.int64)
    spots: list[np.ndarray] = []
    only_train: list[bool] = []
    numbers, starts = np.unique(town, return_index=True)
    for index, here in zip(numbers, np.split(np.arange(len(town)), starts[1:]), strict=True):
        sites = _sites(centres[index], towns["radius_km"].iloc[index], generator)
        sites = sites[: max(1, round(len(here) / PHOTOS_PER_DRIVE))]
        spot[here] = len(only_train) + generator.integers(0, len(sites), len(here))
        spots.append(sites)
        # One drive of each town stays in train, so that only the unseen towns are unknown.
        only_train += [position == 0 for position in range(len(sites))]
    used, drive = np.unique(spot, return_inverse=True)
    heading = generator.uniform(0, 180, len(used))[drive]
    along = generator.uniform(-_DRIVE_KM, _DRIVE_KM, rows)
    middle = np.concatenate(spots)[used][drive]
    coordinates = destination(middle, heading, along)
    outside = ~Gazetteer.load().frame(coordinates)["region"].isin(STATE_CITIES).to_numpy()
    coordinates[outside] = middle[outside]
    is_test = np.isin(town, unseen)
    candidates = generator.permutation(np.flatnonzero(~np.array(only_train)[used]))
    sizes, total = np.bincount(drive), int(is_test.sum())
    is_test_drive = np.zeros(len(used), dtype=np.bool_)
    is_test_drive[drive[is_test]] = True
    for candidate in candidates:
        if not is_test_drive[candidate] and total + sizes[candidate] <= test_rows:
            is_test_drive[candidate] = True
            total += int(sizes[candidate])
    return coordinates, drive, is_test_drive[drive]


def _towns(rows: int, generator: np.random.Generator) -> pd.DataFrame:
    """Choose towns in random order: latitude, longitude, state and the radius_km for drives."""
    towns = _all_towns()
    towns = towns.iloc[generator.permutation(len(towns))]
    towns = towns[towns["room_km"] > _TOWN_GAP_KM]
    total = sum(STATE_CITIES.values())
    wanted = min(max(round(rows / PHOTOS_PER_CITY), len(STATE_CITIES)), total)
    quota = towns["state"].map(
        {s: max(1, round(n * wanted / total)) for s, n in STATE_CITIES.items()}
    )
    towns = towns[towns.groupby("state").cumcount() < quota].reset_index(drop=True)
    # Drives stay nearer to their town than to any other, and apart from the next town's drives.
    towns["radius_km"] = (0.45 * towns["room_km"] - 0.9).clip(0.0, 12.0)
    return towns


@functools.cache
def _all_towns() -> pd.DataFrame:
    """Return latitude, longitude, state and room_km, the distance to the nearest other town."""
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
    return towns


def _sites(centre: np.ndarray, radius_km: float, generator: np.random.Generator) -> np.ndarray:
    """Return the middles (k, 2) of drives around a town on a hexagonal grid, in random order."""
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
    shuffled: np.ndarray = sites[generator.permutation(len(sites))]
    return shuffled


def _draw_all(
    folder: Path,
    frame: pd.DataFrame,
    scenes: list[SceneFacts],
    seed: int,
    workers: int | None,
    progress: Progress | None,
) -> None:
    paths = pd.concat(
        photo_paths(str(split), part["region"], part["id"])
        for split, part in frame.groupby("split")
    ).sort_index()
    for parent in {(folder / path).parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    jobs = [(scene, str(folder / path)) for scene, path in zip(scenes, paths, strict=True)]
    chunks = [jobs[start : start + 50] for start in range(0, len(jobs), 50)]
    done = 0
    draw = functools.partial(_draw_chunk, seed=seed)
    with contextlib.closing(in_processes(draw, chunks, workers)) as counts:
        for count in counts:
            done += count
            if progress:
                progress(done, len(jobs))


def _draw_chunk(jobs: list[tuple[SceneFacts, str]], seed: int) -> int:
    for facts, path in jobs:
        image = draw_scene(facts, seed)
        image.save(path, quality=JPEG_QUALITY, comment=b"synthetic scene, not a photograph")
    return len(jobs)
