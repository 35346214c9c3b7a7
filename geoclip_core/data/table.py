"""A dataset: one table of photos with coordinates, time, context labels and a split."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from geoclip_core.data import osv_mini
from geoclip_core.data.osv_mini import DatasetError
from geoclip_core.data.splits import spatial_split
from geoclip_core.data.vocabulary import Vocabulary, climate_vocabulary, month_vocabulary

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class PhotoDataset:
    """Photos of one folder.

    Attributes:
        root: The folder; paths in the table are relative to it.
        name: What to call the dataset.
        table: One row a photo. id, path, latitude, longitude (degrees), captured_at (UTC or NaT),
            climate (class index or -100), month (0-11 or -100), country, state, county, city
            (names or NA), country_key, state_key, county_key, city_key (unique, or NA), sequence
            (or NA), split ("train", "val", "test", or "buffer": left out because closer than 1 km
            to a val photo and not in val).
        synthetic: Whether the photos were drawn by this project and show no real place.
    """

    root: Path
    name: str
    table: pd.DataFrame
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.table)

    def split(self, name: str) -> "PhotoDataset":
        """The photos of one split: "train", "val", "test" or "buffer".

        Raises:
            DatasetError: no such split. A split without photos is an empty dataset.
        """
        if name not in (*SPLITS, "buffer"):
            raise DatasetError(f"no split {name!r}; there are {', '.join(SPLITS)} and buffer")
        return self.select((self.table["split"] == name).to_numpy())

    def select(self, rows: np.ndarray) -> "PhotoDataset":
        """The photos at positions (k,) or under a boolean mask (n,)."""
        table = self.table.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows]
        return dataclasses.replace(self, table=table.reset_index(drop=True))

    @property
    def coordinates(self) -> np.ndarray:
        """Latitude and longitude in degrees, (n, 2) float64."""
        return self.table[["latitude", "longitude"]].to_numpy(dtype=np.float64)

    @property
    def paths(self) -> list[Path]:
        """The n photo files; whether they exist is not looked up."""
        return [self.root / path for path in self.table["path"]]

    def keys(self, feature: str) -> pd.Series:
        """The vocabulary keys of one feature, (n,) text, NA where unknown."""
        if feature in ("climate", "month"):
            vocabulary = climate_vocabulary() if feature == "climate" else month_vocabulary()
            index = self.table[feature].to_numpy()
            known = np.where(index < 0, len(vocabulary), index)
            keys = np.array([*vocabulary.keys, None], dtype=object)[known]
            return pd.Series(keys, index=self.table.index, dtype="str")
        return self.table[f"{feature}_key"]

    def labels(self, vocabularies: Mapping[str, Vocabulary]) -> dict[str, np.ndarray]:
        """Class indices of every vocabulary's feature, each (n,) int64, -100 where unknown."""
        return {name: vocab.encode(self.keys(name)) for name, vocab in vocabularies.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every column of the table in its order: 16 hexadecimal digits.

        Another label or another split is another dataset to whoever keeps results by this name.
        """
        digest = hashlib.sha256("\n".join(self.table.columns).encode())
        rows = pd.util.hash_pandas_object(self.table, index=False)
        digest.update(rows.to_numpy(dtype="<u8").tobytes())
        return digest.hexdigest()[:16]


def read_dataset(root: Path | str, *, val_fraction: float = 0.1, seed: int = 0) -> PhotoDataset:
    """Read a folder in the layout of OSV-Mini-129k.

    Args:
        root: Folder with ``train_mini.csv`` or ``test_mini.csv`` or both.
        val_fraction: Share of the training rows that becomes val, by spatial blocks; 0 for none.
        seed: Which blocks become val.

    Raises:
        DatasetError: nothing to read, or a wrong value, with its file, column and row.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    description = osv_mini.read_description(root)
    files = {s: osv_mini.csv_path(root, s) for s in osv_mini.FILE_SPLITS}
    present = {split: path for split, path in files.items() if path.is_file()}
    if not set(present) & {"train", "test"}:
        raise DatasetError(
            f"{root}: neither train_mini.csv nor test_mini.csv is here; choose the folder that "
            "holds them, or make one with python -m train demo-data, import-photos or download"
        )
    tables = []
    for split, path in present.items():
        table, problems = osv_mini.parse(osv_mini.read_text(path), path.name)
        osv_mini.raise_first(problems)
        table.insert(1, "path", osv_mini.photo_paths(split, table["state"], table["id"]))
        table["split"] = split
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    if not len(table):
        raise DatasetError(f"{root}: {' and '.join(p.name for p in present.values())} have no rows")
    train = (table["split"] == "train").to_numpy()
    if train.any() and val_fraction > 0:
        part = table.loc[train, ["latitude", "longitude", "sequence"]]
        table.loc[train, "split"] = spatial_split(
            part[["latitude", "longitude"]].to_numpy(),
            val_fraction,
            seed=seed,
            sequences=part["sequence"],
        )
    name = description.get("name")
    return PhotoDataset(
        root=root,
        name=name if isinstance(name, str) and name else root.resolve().name,
        table=table,
        synthetic=description.get("synthetic") is True,
    )
