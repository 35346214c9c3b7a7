"""The predictions of the Evaluation page: choosing them in the sidebar, and filtering them."""

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
from geoclip_core.data.vocabulary import MONTHS, place_name
from geoclip_core.earth.climate import climate_classes
from geoclip_core.earth.gazetteer import Gazetteer, country_name
from geoclip_core.errors import FileError
from geoclip_core.evaluation.evaluate import describe, predictions_of
from geoclip_core.evaluation.metrics import with_places
from geoclip_core.evaluation.predictions import (
    PredictionsError,
    imported_predictions,
    read_guesses,
    read_predictions,
)
from geoclip_core.files import is_unicode, was_opened
from geoclip_core.training.runs import title_of
from ui.page import choose, is_public, kept, runs_folder, wrapping_columns
from ui.theme import ERROR_LIMIT_KM, kilometres, markdown_text

_IMPORT = "import:"
_CLEARED = "filters cleared"
"""Session key: how often the filters were cleared."""
_IMPORTS_KEPT = 16
_MOST_COMPARED = 3
_STEPS_KM = (0, 1, 5, 25, 50, 100, 200, 400, 750, 1000, 1500, 2500, 5000, 10_000, ERROR_LIMIT_KM)


@dataclass(frozen=True)
class Source:
    """A predictions table that can be selected."""

    model: str
    dataset: str
    split: str
    path: str
    """The Parquet file, or the key of an imported CSV."""
    changed: float
    """When the file was last changed; part of the key of caches."""
    note: str = ""
    root: str = ""
    """Folder of the photos: of a dataset that this user has opened; "" if there is none."""
    unopened: str = ""
    """The folder that the table names as that of its photos, if this user has not opened it."""
    use_context: bool | None = None
    warning: str = ""

    @property
    def file(self) -> Path | None:
        """The Parquet file; None of an imported CSV."""
        return None if self.path.startswith(_IMPORT) else Path(self.path)

    @property
    def data(self) -> str:
        """The dataset and split, as the list of datasets shows them."""
        return f"{self.dataset}, {self.split}" if self.split else self.dataset


@dataclass(frozen=True)
class Filters:
    """The rows of a table to keep; an empty tuple keeps all."""

    countries: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    climates: tuple[int, ...] = ()
    months: tuple[int, ...] = ()
    error_km: tuple[float, float] = (0.0, np.inf)
    radius_km: tuple[float, float] = (0.0, np.inf)
    """Range of the stated 50 % radius: the confidence."""


def find_sources() -> tuple[list[Source], list[str]]:
    """Return every predictions table and an error message for each that cannot be used.

    The tables are those of the evaluations, the runs and the bundled models, newest first.
    """
    sources: list[Source] = []
    problems: list[str] = []
    shipped = Path(geoclip_core.__file__).parent / "checkpoints"
    for place in (shipped, runs_folder(), Path("evaluations")):
        found = []
        for folder in sorted(place.glob("*")):
            path = predictions_of(folder) if folder.is_dir() else None
            if path is None:
                continue
            try:
                if not is_unicode(str(path)):
                    raise PredictionsError(str(FileError(path, "is no name in UTF-8")))
                found.append(_source(path))
            except (PredictionsError, OSError) as error:
                problems.append(str(error))
        if place != shipped:  # bundled models stay in the order of their names
            found.sort(key=lambda source: -source.changed)
        sources = [*found, *sources]
    return sources, problems


def _source(path: Path) -> Source:
    about = describe(path)
    context = about.get("use_context")
    root = str(about.get("root") or "")
    opened = bool(root) and was_opened(root)
    return Source(
        model=title_of(str(about["model"])),
        dataset=str(about.get("dataset") or "unnamed dataset"),
        split=str(about.get("split") or ""),
        path=str(path),
        changed=path.stat().st_mtime,
        note=str(about.get("note") or ""),
        root=root if opened else "",
        unopened="" if opened else root,
        use_context=context if isinstance(context, bool) else None,
        warning=str(about.get("warning") or ""),
    )


@st.cache_resource
def _imports() -> OrderedDict[str, pd.DataFrame]:
    """Return the kept guesses of imported CSVs by their keys, the latest last."""
    return OrderedDict()


@st.cache_resource(max_entries=8, show_spinner="Reading predictions …")
def table(source: Source, main: Source) -> pd.DataFrame:
    """Return the rows of a source in the order of the main one, without the list columns.

    Photos that the main table lacks are left out; photos that this one lacks have a missing
    ``error_km``.

    Raises:
        PredictionsError: the table cannot be used, or has no photo of the main one.
    """
    if source.path.startswith(_IMPORT):
        if source.path not in _imports():
            raise PredictionsError(f"the CSV {source.model} is no longer kept: upload it again")
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
        frame = _with_places(frame)
    return frame


def _with_places(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the places of the predicted points to a table that was written without them."""
    placed = with_places(frame[frame["error_km"].notna()], Gazetteer.load())
    return frame.join(placed[placed.columns.difference(frame.columns, sort=False)])


def mask(frame: pd.DataFrame, filters: Filters) -> np.ndarray:
    """Return which rows of the main table the filters keep, (n,) bool."""
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
    """Return the rows of a source for the photos of the main table that the filters keep.

    Their order is that of the main table; photos that the source did not answer are left out.
    The table is cached: callers must not change it.
    """
    frame = table(source, main)
    keep = mask(table(main, main), filters) & frame["error_km"].notna().to_numpy()
    return frame if keep.all() else frame[keep].reset_index(drop=True)


@dataclass(frozen=True)
class View:
    """The input of all panels: the predictions of a model, those to compare with, and filters."""

    main: Source
    compared: tuple[Source, ...]
    filters: Filters

    @property
    def sources(self) -> tuple[Source, ...]:
        """The selected source and those it is compared with."""
        return self.main, *self.compared

    def rows(self, source: Source | None = None) -> pd.DataFrame:
        """Return the filtered rows of a source, by default of the main one; do not change them."""
        return rows(source or self.main, self.main, self.filters)

    def names(self) -> dict[Source, str]:
        """Return a unique name for each source."""
        return source_names(self.sources)


def source_names(sources: Sequence[Source]) -> dict[Source, str]:
    """Return a unique name for each source: its model, with its folder if names repeat."""
    counts = Counter(source.model for source in sources)
    names = {}
    for source in sources:
        folder = Path(source.path).parent
        folder = folder.parent if folder.name == "checkpoint" else folder
        alone = counts[source.model] == 1 or folder.name in ("", source.model)
        names[source] = source.model if alone else f"{source.model} ({folder.name})"
    return names


def choose_sources(sources: Sequence[Source]) -> tuple[Source, list[Source]]:
    """Draw the choice of dataset, model and models to compare with; expects at least one source."""
    data = choose(
        "Dataset",
        list(dict.fromkeys(s.data for s in sources)),
        "evaluation dataset",
        address=("dataset", str),
    )
    on_data = [source for source in sources if source.data == data]
    names = source_names(on_data)
    chosen = choose(
        "Model",
        on_data,
        "evaluation model",
        format_func=names.__getitem__,
        address=("model", lambda source: names.get(source, source.model)),
    )
    main = chosen or on_data[0]
    others = [source for source in on_data if source != main]
    imported: list[Source] = kept("imported predictions", list)
    others += [source for source in imported if source.data == data]
    names |= source_names(others)
    if "evaluation compared" not in st.session_state and main.use_context:
        # A model that uses context is compared with one that does not, if there is one.
        plain = [source for source in others if source.use_context is False]
        st.session_state["evaluation compared"] = plain[:1]
    compared = _multiselect(
        "Compare with",
        others,
        "evaluation compared",
        format_func=lambda source: names.get(source, source.model),
        max_selections=_MOST_COMPARED,
        placeholder="Other models on these photos" if others else "No other model yet",
        help="Differences are measured on the photos that both have answered.",
    )
    if is_public():
        return main, [source for source in compared if _usable(source, main)]
    with st.expander("Predictions of another system"):
        file = st.file_uploader(
            "A CSV with the columns id, latitude and longitude", type="csv", key="evaluation csv"
        )
        if file is not None:
            _import(file.name, file.getvalue(), main, imported)
    return main, [source for source in compared if _usable(source, main)]


def _import(name: str, content: bytes, main: Source, imported: list[Source]) -> None:
    """Add a CSV of another system to the sources, and compare it with ``main``."""
    key = _IMPORT + hashlib.sha256(content).hexdigest()[:16]
    model = Path(name).stem[:40] or "imported"
    source = Source(model, main.dataset, main.split, key, 0.0, "imported CSV", main.root)
    try:
        if key not in _imports():
            _imports()[key] = read_guesses(content, name)
            while len(_imports()) > _IMPORTS_KEPT:
                _imports().popitem(last=False)
        rows = table(source, main)
    except PredictionsError as error:
        st.error(markdown_text(str(error)))
        return
    answered = int(rows["error_km"].notna().sum())
    if source not in imported:
        imported.append(source)
        chosen = st.session_state.get("evaluation compared", [])
        if len(chosen) < _MOST_COMPARED:
            st.session_state["evaluation compared next"] = [*chosen, source]
        st.rerun()
    st.caption(f"{markdown_text(source.model)}: {answered:,} of {len(rows):,} photos answered.")


def _usable(source: Source, main: Source) -> bool:
    try:
        table(source, main)
    except PredictionsError as error:
        st.sidebar.error(markdown_text(f"{source.model}: {error}"))
        return False
    return True


def choose_filters(frame: pd.DataFrame) -> Filters:
    """Draw the filters of all panels."""
    columns = wrapping_columns([3, 2, 2, 3, 3], "filters", 100)
    with columns[0]:
        countries = frame["country_key"].nunique() if "country_key" in frame else 0
        kind, plural = ("country", "countries") if countries > 1 else ("state", "states")
        places = _values(frame, f"{kind}_key")
        place = _multiselect(
            kind.capitalize(),
            places,
            _filter_key(plural),
            format_func=country_name if countries > 1 else place_name,
            placeholder=f"All {len(places):,} {plural}",
            help=f"The {plural} of the photos, those with most photos first. Type to search.",
        )
    with columns[1]:
        climates = _multiselect(
            "Climate",
            [int(i) for i in _values(frame, "climate") if i >= 0],
            _filter_key("climates"),
            format_func=lambda index: climate_classes()[index].symbol,
            placeholder="All climates",
        )
    with columns[2]:
        months = _multiselect(
            "Month",
            sorted(int(i) for i in _values(frame, "month") if i >= 0),
            _filter_key("months"),
            format_func=lambda index: MONTHS[index],
            placeholder="All months",
            empty="No capture dates",
        )
    with columns[3]:
        error = _range("Error", _filter_key("error"))
    with columns[4]:
        stated = bool(frame["radius_50_km"].notna().any())
        radius = _range(
            "Confidence: 50 % radius",
            _filter_key("radius"),
            disabled=not stated,
            help="The stated radius that should contain the true place half of the time.",
        )
    return Filters(
        countries=tuple(place) if countries > 1 else (),
        states=tuple(place) if countries <= 1 else (),
        climates=tuple(climates),
        months=tuple(months),
        error_km=error,
        radius_km=radius if stated else (0.0, np.inf),
    )


def clear_filters() -> None:
    """Clear every filter (a widget callback).

    The widgets get new keys: with the old ones the browser would send its values again.
    """
    st.session_state[_CLEARED] = st.session_state.get(_CLEARED, 0) + 1


def _filter_key(name: str) -> str:
    times = st.session_state.get(_CLEARED, 0)
    return f"filter {name} {times}" if times else f"filter {name}"


def _values(frame: pd.DataFrame, column: str) -> list[Any]:
    """Return the values of a column, the most frequent first."""
    return frame[column].dropna().value_counts().index.tolist() if column in frame else []


def _range(label: str, key: str, **options: Any) -> tuple[float, float]:
    low, high = st.select_slider(
        label,
        _STEPS_KM,
        value=st.session_state.get(key, (_STEPS_KM[0], _STEPS_KM[-1])),
        format_func=lambda km: "any" if km == ERROR_LIMIT_KM else kilometres(km) if km else "0",
        key=key,
        persist_state="session",
        **options,
    )
    return float(low), float(high) if high < ERROR_LIMIT_KM else np.inf


def _multiselect(
    label: str, values: Sequence[Any], key: str, empty: str | None = None, **options: Any
) -> list[Any]:
    """Draw a multiselect that survives a change of page and drops values no longer offered."""
    if f"{key} next" in st.session_state:
        st.session_state[key] = st.session_state.pop(f"{key} next")
    if key in st.session_state:
        st.session_state[key] = [value for value in st.session_state[key] if value in values]
    if not values:
        options["placeholder"] = empty or options.get("placeholder", "Nothing to choose from")
    return st.multiselect(
        label, values, key=key, disabled=not values, persist_state="session", **options
    )
