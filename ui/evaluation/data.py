"""What the Evaluation page looks at: which predictions there are, and the filtered rows of them.

Tables are read once for all sessions and never changed. Everything derived from one is cached under
the file, its time of change and the filters, so that a filter change costs one pass over the rows.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

import geoclip_core
from geoclip_core.data.vocabulary import MONTHS
from geoclip_core.earth.climate import climate_names
from geoclip_core.earth.gazetteer import country_name
from geoclip_core.loops.evaluate import describe, predictions_of
from geoclip_core.loops.imported import imported_predictions, read_guesses
from geoclip_core.loops.metrics import with_places
from geoclip_core.loops.predictions import PredictionsError, read_predictions
from ui.runs_folder import runs_folder

_IMPORT = "import:"
_IMPORTS_KEPT = 16


@dataclass(frozen=True)
class Source:
    """A predictions table that can be chosen."""

    model: str
    dataset: str
    split: str
    path: str
    """The Parquet file, or the mark of an imported CSV."""
    changed: float
    """Time of the file's last change, so that caches notice a new one."""
    note: str = ""
    root: str = ""
    """Folder of the photos, if it is known."""
    use_context: bool | None = None
    warning: str = ""

    @property
    def data(self) -> str:
        """The dataset and split, as the dataset is chosen."""
        return f"{self.dataset}, {self.split}" if self.split else self.dataset


@dataclass(frozen=True)
class Filters:
    """What is kept of a table; empty means everything."""

    countries: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    climates: tuple[int, ...] = ()
    months: tuple[int, ...] = ()
    error_km: tuple[float, float] = (0.0, np.inf)
    radius_km: tuple[float, float] = (0.0, np.inf)
    """Range of the stated 50 % radius: the confidence."""


def prediction_places() -> tuple[Path, ...]:
    """Where predictions are looked for: what ships, then what training and evaluation write."""
    shipped = Path(geoclip_core.__file__).parent / "checkpoints"
    return shipped, runs_folder(), Path("evaluations")


def find_sources(places: Sequence[Path] | None = None) -> tuple[list[Source], list[str]]:
    """Every predictions table in the folders, the newest first, those of the first folder last.

    Args:
        places: by default those of :func:`prediction_places`.

    Returns:
        The sources, and a sentence for each table that cannot be used.
    """
    sources, problems = [], []
    places = prediction_places() if places is None else places
    for place in places:
        found = []
        for folder in sorted(place.glob("*")):
            path = predictions_of(folder) if folder.is_dir() else None
            if path is None:
                continue
            try:
                found.append(_source(path))
            except (PredictionsError, ValueError) as error:
                problems.append(str(error))
        if place != places[0]:  # what ships has no age that means anything: by name
            found.sort(key=lambda source: -source.changed)
        sources = [*found, *sources]
    return sources, problems


def _source(path: Path) -> Source:
    about = describe(path)
    context = about.get("use_context")
    return Source(
        model=str(about["model"]),
        dataset=str(about.get("dataset") or "unnamed dataset"),
        split=str(about.get("split") or ""),
        path=str(path),
        changed=path.stat().st_mtime,
        note=str(about.get("note") or ""),
        root=str(about.get("root") or ""),
        use_context=context if isinstance(context, bool) else None,
        warning=str(about.get("warning") or ""),
    )


@st.cache_resource
def _imports() -> OrderedDict[str, pd.DataFrame]:
    """The guesses of imported CSVs, the latest last."""
    return OrderedDict()


def import_csv(name: str, content: bytes, main: Source) -> Source:
    """A CSV of another system as a source beside the chosen one.

    Raises:
        PredictionsError: it is not a CSV of id, latitude and longitude.
    """
    mark = _IMPORT + hashlib.sha256(content).hexdigest()[:16]
    imports = _imports()
    if mark not in imports:
        imports[mark] = read_guesses(content, name)
        while len(imports) > _IMPORTS_KEPT:
            imports.popitem(last=False)
    model = Path(name).stem[:40] or "imported"
    return Source(model, main.dataset, main.split, mark, 0.0, "imported CSV", main.root)


@st.cache_resource(max_entries=8, show_spinner="Reading predictions …")
def table(source: Source, main: Source) -> pd.DataFrame:
    """The rows of a source in the order of the main one's, without the long list columns.

    Photos that the main table does not have are left out; photos that this one does not have stay,
    with an ``error_km`` that is missing.

    Raises:
        PredictionsError: the table cannot be used, or has no photo of the main one.
    """
    if source.path.startswith(_IMPORT):
        if source.path not in _imports():
            raise PredictionsError(f"the CSV {source.model} is no longer here: upload it again")
        frame = imported_predictions(_imports()[source.path], table(main, main))
    else:
        frame = read_predictions(source.path, candidates=False)
    if source != main:
        ids = table(main, main)["id"]
        frame = frame.set_index(frame["id"].astype(str)).reindex(ids.astype(str))
        frame = frame.assign(id=ids.to_numpy()).reset_index(drop=True)
        if frame["error_km"].isna().all():
            raise PredictionsError(
                f"{source.model} and {main.model} have no photo in common to compare"
            )
    if "predicted_country_key" not in frame and "country_key" in frame:
        frame = _named(frame)
    return frame


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Names of the predicted points, for tables that were written without them."""
    from geoclip_core.earth.gazetteer import Gazetteer

    answered = frame["error_km"].notna()
    named = with_places(frame[answered], Gazetteer.load())
    return frame.join(named[[c for c in named if c.startswith("predicted_") and c not in frame]])


def mask(frame: pd.DataFrame, filters: Filters) -> np.ndarray:
    """(n,) bool: the rows of the main table that the filters keep."""
    keep = np.ones(len(frame), dtype=bool)
    for column, wanted in (
        ("country_key", filters.countries),
        ("state_key", filters.states),
        ("climate", filters.climates),
        ("month", filters.months),
    ):
        if wanted and column in frame:
            keep &= frame[column].isin(wanted).to_numpy()
    for column, (low, high) in (
        ("error_km", filters.error_km),
        ("radius_50_km", filters.radius_km),
    ):
        if low > 0 or np.isfinite(high):
            values = frame[column].to_numpy(np.float64)
            keep &= (values >= low) & (values <= high)
    return keep


@st.cache_resource(max_entries=12, show_spinner=False)
def rows(source: Source, main: Source, filters: Filters) -> pd.DataFrame:
    """The rows of a source for the photos that the filters keep of the main table.

    Their order is that of the main table; photos that the source did not answer are left out.
    Whoever gets this table must not change it.
    """
    frame = table(source, main)
    keep = mask(table(main, main), filters) & frame["error_km"].notna().to_numpy()
    return frame if keep.all() else frame[keep].reset_index(drop=True)


@dataclass(frozen=True)
class View:
    """What all panels show: a model, those beside it, and the filters."""

    main: Source
    beside: tuple[Source, ...]
    filters: Filters

    @property
    def sources(self) -> tuple[Source, ...]:
        """The model and those beside it."""
        return self.main, *self.beside

    def rows(self, source: Source | None = None) -> pd.DataFrame:
        """The filtered rows of a source, by default of the model; not to be changed."""
        return rows(source or self.main, self.main, self.filters)

    def names(self) -> dict[Source, str]:
        """What to call each source; where two models are alike, with their folders."""
        return source_names(self.sources)


def source_names(sources: Sequence[Source]) -> dict[Source, str]:
    """A name for each source that no other of them has."""
    counts = Counter(source.model for source in sources)
    names = {}
    for source in sources:
        folder = Path(source.path).parent
        folder = folder.parent if folder.name == "checkpoint" else folder
        alone = counts[source.model] == 1 or folder.name in ("", source.model)
        names[source] = source.model if alone else f"{source.model} ({folder.name})"
    return names


def place_name(key: Any) -> str:
    """A unique key as people write it: "Ada County_Idaho_US" is "Ada County, Idaho, US"."""
    return ", ".join(part for part in str(key).split("_") if part)


def class_name(feature: str, key: Any) -> str:
    """A class as people write it: a climate symbol, a month, a country, or a place."""
    if feature == "country":
        return country_name(str(key))
    if feature == "climate":
        return climate_names()[int(key)].symbol if isinstance(key, int | np.integer) else str(key)
    if feature == "month":
        return MONTHS[int(key)] if isinstance(key, int | np.integer) else str(key)
    return place_name(key)
