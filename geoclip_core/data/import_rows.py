"""Rows of imported photos: places and climate looked up, and a split that does not leak."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geoclip_core.data.positions import Position
from geoclip_core.data.splits import MIN_DISTANCE_KM, nearest_km, spatial_split
from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import OFFSHORE_KM, REMOTE_KM, Gazetteer

IMPORT_COLUMNS = (
    *("id", "latitude", "longitude", "country", "captured_at", "region", "sub-region", "city"),
    *("climate", "unique_country", "unique_region", "unique_sub-region", "unique_city"),
    "source_file",
)


def imported_rows(photos: Sequence[tuple[str, str, Position]]) -> pd.DataFrame:
    """Rows of new photos, all columns text as a CSV has it.

    Args:
        photos: id, file below the imported folder, and position of each.

    Returns:
        (n,) rows of `IMPORT_COLUMNS`. Far out at sea, where the nearest town means nothing, the
        place columns are empty.
    """
    coordinates = np.array([(p.latitude, p.longitude) for _, _, p in photos]).reshape(-1, 2)
    places = Gazetteer.load().frame(coordinates)
    codes = ClimateRaster.load().codes(coordinates).astype(int)
    distance = places.pop("distance_km")
    nowhere = (distance > REMOTE_KM) | ((codes == 0) & (distance > OFFSHORE_KM))
    frame = places.astype("str").mask(nowhere.to_numpy()[:, None] | places.isna(), "")
    frame["id"] = [photo_id for photo_id, _, _ in photos]
    frame["source_file"] = [file for _, file, _ in photos]
    for axis, column in enumerate(("latitude", "longitude")):
        # Seven decimals are a centimetre; the same text every time the same photo is imported.
        frame[column] = [f"{value:.7f}" for value in coordinates[:, axis]]
    times = [position.captured_at for _, _, position in photos]
    frame["captured_at"] = ["" if time is None else str(time) for time in times]
    frame["climate"] = [str(code) for code in codes]
    return frame[list(IMPORT_COLUMNS)].astype("str")


def with_splits(
    old: pd.DataFrame, new: pd.DataFrame, test_fraction: float, seed: int
) -> pd.DataFrame:
    """Old rows, updated by new ones of the same id, and the others with a split of their own.

    A photo stays in the split it has. A new photo goes where its neighbours within 1 km are, the
    rest is split in spatial blocks, and who is then too close to both sides goes to "buffer".

    Args:
        old: Rows with split, or an empty frame with an id column.
        new: Rows without split.
        test_fraction: Share of the unattached new photos in test.
        seed: Which blocks become test.
    """
    split_of = dict(zip(old["id"], old["split"], strict=True)) if len(old) else {}
    rows = new.assign(split=[split_of.get(photo_id, "") for photo_id in new["id"]])
    fresh = (rows["split"] == "").to_numpy()
    kept = old[~old["id"].isin(rows["id"])]
    known = pd.concat([kept, rows[~fresh]], ignore_index=True)
    split = _fresh_splits(_at(rows[fresh]), _at(known), known, test_fraction, seed)
    rows.loc[fresh, "split"] = split
    if not len(old):
        return rows.astype("str").reset_index(drop=True)
    # Old rows stay where they were, new ones come at the end: importing again gives the same file.
    merged = known.set_index("id").loc[old["id"]].reset_index()
    return pd.concat([merged[old.columns], rows[fresh]], ignore_index=True).astype("str")


def _fresh_splits(
    fresh: np.ndarray, known_at: np.ndarray, known: pd.DataFrame, fraction: float, seed: int
) -> np.ndarray:
    if not len(fresh):
        return np.empty(0, dtype=object)
    at_test = known_at[(known["split"] == "test").to_numpy()] if len(known) else known_at
    at_train = known_at[(known["split"] == "train").to_numpy()] if len(known) else known_at
    near_test = np.isfinite(nearest_km(fresh, at_test, MIN_DISTANCE_KM))
    near_train = np.isfinite(nearest_km(fresh, at_train, MIN_DISTANCE_KM))
    split = np.full(len(fresh), "train", dtype=object)
    free = ~near_test & ~near_train
    if fraction > 0 and free.any():
        parts = spatial_split(fresh[free], fraction, seed=seed)
        split[free] = np.where(parts == "val", "test", parts)
    split[near_test] = "test"
    split[near_test & near_train] = "buffer"
    for one, other, there in (("train", "test", at_test), ("test", "train", at_train)):
        against = np.concatenate([fresh[split == other], there])
        close = np.isfinite(nearest_km(fresh, against, MIN_DISTANCE_KM))
        split[close & (split == one)] = "buffer"
    return split


def _at(rows: pd.DataFrame) -> np.ndarray:
    if not len(rows):
        return np.empty((0, 2))
    return rows[["latitude", "longitude"]].astype("float64").to_numpy()
