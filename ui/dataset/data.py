"""The dataset of the Dataset page: read once, its rows selected, its labels counted."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.data import DEFAULT_FEATURES, PLACE_FEATURES
from geoclip_core.data.dataset import (
    DESCRIPTION_FILE,
    FILE_SPLITS,
    SPLITS,
    PhotoDataset,
    csv_path,
    read_dataset,
)
from geoclip_core.data.doctor import Leakage, leakage
from geoclip_core.data.vocabulary import MONTHS, build_vocabularies
from geoclip_core.earth.climate import climate_classes
from geoclip_core.earth.gazetteer import country_name

ALL_SPLITS = (*SPLITS, "buffer")
FEATURES = ("state", "county", "city", "climate", "month", "country")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A selection of photos by split and by the class of one feature; None selects all."""

    split: str | None = None
    feature: str | None = None
    key: str | None = None
    """The key of a place, or the index of a climate or month as text."""


def load(root: Path) -> PhotoDataset:
    """Return the dataset of a folder; it is read again only when one of its tables has changed.

    Raises:
        DatasetError: it cannot be read.
    """
    return _read(str(root), _stamp(root))


def _stamp(root: Path) -> tuple[int, ...]:
    """Return the modification times of the files that the table is read from."""
    files = [*(csv_path(root, split) for split in FILE_SPLITS), root / DESCRIPTION_FILE]
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


@st.cache_resource(max_entries=3, show_spinner="Reading the tables …")
def _read(root: str, stamp: tuple[int, ...]) -> PhotoDataset:
    return read_dataset(root)


def rows_of(dataset: PhotoDataset, chosen: Chosen) -> np.ndarray:
    """Return the positions (k,) of the selected photos in the table."""
    table = dataset.table
    mask = np.ones(len(table), dtype=bool)
    if chosen.split:
        mask &= (table["split"] == chosen.split).to_numpy()
    if chosen.feature and chosen.key is not None:
        mask &= _keys(table, chosen.feature).eq(chosen.key).fillna(False).to_numpy(dtype=bool)
    return np.flatnonzero(mask)


@st.cache_data(max_entries=60, show_spinner=False)
def classes(_dataset: PhotoDataset, fingerprint: str, feature: str) -> dict[str, int]:
    """Return key → number of photos of each class of one of `FEATURES`, largest first.

    The fingerprint is the dataset's, for the cache.
    """
    counts = _keys(_dataset.table, feature).value_counts()
    return {str(key): int(n) for key, n in counts.items()}


@st.cache_data(max_entries=8, show_spinner=False)
def coverage(_dataset: PhotoDataset, fingerprint: str) -> pd.DataFrame:
    """Return the share of photos with a known label, by feature and split.

    Returns:
        Columns feature, classes, train, val, test (shares from 0 to 1, NaN for an empty split) and
        unseen, the share of labelled test photos whose class is not in train.
    """
    records = []
    trained = {}
    if (_dataset.table["split"] == "train").any():
        trained = build_vocabularies(_dataset.table, (*DEFAULT_FEATURES, "country"))
    for feature in FEATURES:
        record: dict[str, object] = {"feature": feature}
        vocabulary = trained.get(feature)
        for split in SPLITS:
            part = _dataset.split(split)
            keys = part.keys(feature)
            record[split] = float(keys.notna().mean()) if len(part) else np.nan
            if split == "test" and vocabulary is not None and keys.notna().any():
                known = keys[keys.notna()]
                record["unseen"] = float((vocabulary.encode(known) < 0).mean())
        seen = _keys(_dataset.table[_dataset.table["split"] == "train"], feature)
        record["classes"] = int(seen.nunique())
        records.append(record)
    columns = ["feature", "classes", *SPLITS, "unseen"]
    return pd.DataFrame(records).reindex(columns=columns)


@st.cache_data(max_entries=8, show_spinner=False)
def leaks(_dataset: PhotoDataset, fingerprint: str) -> list[Leakage]:
    """Return how many val and test photos are close to training photos."""
    present = set(_dataset.table["split"])
    if "train" not in present:
        return []
    return [leakage(_dataset, split) for split in ("val", "test") if split in present]


def describe(row: pd.Series) -> str:
    """Return one line about a photo, such as "Abilene, Texas · July 2021 · Cfa"."""
    names = [row[place] for place in ("city", "state") if isinstance(row[place], str)]
    if isinstance(row["country"], str) and row["country"] != "US":
        names.append(country_name(row["country"]))
    parts = [", ".join(dict.fromkeys(names)) or f"{row['latitude']:.2f}, {row['longitude']:.2f}"]
    if not pd.isna(row["captured_at"]):
        parts.append(f"{MONTHS[row['captured_at'].month - 1]} {row['captured_at'].year}")
    if row["climate"] >= 0:
        parts.append(climate_classes()[row["climate"]].symbol)
    return " · ".join(parts)


def _keys(table: pd.DataFrame, feature: str) -> pd.Series:
    if feature in PLACE_FEATURES:
        return table[f"{feature}_key"]
    index = table[feature]
    return index.astype("str").where(index >= 0)
