"""Context vocabularies: the classes of each feature, their indices and their display names."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsInt

import numpy as np

from geoclip_core.data import DEFAULT_FEATURES, KNOWN_FEATURES, PLACE_FEATURES
from geoclip_core.earth.climate import UNKNOWN, climate_classes
from geoclip_core.earth.gazetteer import country_name

if TYPE_CHECKING:  # takes a second to import, which locating a photo need not wait
    import pandas as pd

IGNORE_INDEX = UNKNOWN  # a missing label, which losses and metrics skip

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)


class VocabularyError(ValueError):
    """A vocabulary cannot be made or read; the message names the feature and the cause."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The classes of one context feature."""

    feature: str
    keys: tuple[str, ...]  # unique ("Ada County_Idaho_US", "Cfa"); the position is the class index
    names: tuple[str, ...]  # for display ("Ada County", "Cfa, temperate, ...")
    parent: tuple[int, ...] | None = None  # index in the parent feature's vocabulary, -1 for none
    parent_feature: str | None = None  # the next larger place feature of the same model

    def __post_init__(self) -> None:
        what = f"vocabulary of {self.feature!r}"
        if self.feature not in KNOWN_FEATURES:
            raise VocabularyError(f"{what}: the known features are {', '.join(KNOWN_FEATURES)}")
        if len(self.names) != len(self.keys):
            raise VocabularyError(f"{what}: {len(self.keys)} keys but {len(self.names)} names")
        if len(set(self.keys)) != len(self.keys):
            twice = Counter(self.keys).most_common(1)[0][0]
            raise VocabularyError(f"{what}: the key {twice!r} occurs twice")
        if (self.parent is None) != (self.parent_feature is None):
            raise VocabularyError(f"{what}: parent and parent_feature go together")
        if self.parent is not None:
            if len(self.parent) != len(self.keys):
                raise VocabularyError(
                    f"{what}: {len(self.keys)} keys but {len(self.parent)} parents"
                )
            if any(index < -1 for index in self.parent):
                raise VocabularyError(f"{what}: a parent index is below -1")

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The names; a name that occurs twice is followed by its larger places."""
        counts = Counter(self.names)
        return tuple(
            name if counts[name] == 1 else ", ".join(part for part in key.split("_")[:-1] if part)
            for key, name in zip(self.keys, self.names, strict=True)
        )

    def __len__(self) -> int:
        return len(self.keys)

    @functools.cached_property
    def _index(self) -> "pd.Index[str]":
        import pandas as pd

        return pd.Index(list(self.keys), dtype="str")

    def encode(self, values: "pd.Series | np.ndarray | Sequence[str | None]") -> np.ndarray:
        """Return the class indices of keys.

        Args:
            values: (n,) keys; missing ones are NA, NaN or None.

        Returns:
            (n,) int64; `IGNORE_INDEX` where the key is missing or not in the vocabulary.
        """
        import pandas as pd

        series = pd.Series(np.asarray(values, dtype=object))
        found = self._index.get_indexer(pd.Index(series.astype("str")))
        return np.where(found < 0, IGNORE_INDEX, found).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a mapping that ``json.dump`` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Vocabulary":
        """Return the vocabulary of a mapping that `to_json` made.

        Raises:
            VocabularyError: a key is missing, or a value has the wrong type or length.
        """
        if not isinstance(content, Mapping):
            raise VocabularyError("a vocabulary must be a mapping with feature, keys and names")
        try:
            feature, keys, names = content["feature"], content["keys"], content["names"]
        except KeyError as error:
            raise VocabularyError(f"a vocabulary lacks {error.args[0]!r}") from error
        parent = content.get("parent")
        for part, kind, values in (
            ("keys", str, keys),
            ("names", str, names),
            ("parent", int, () if parent is None else parent),
        ):
            if not isinstance(values, list | tuple) or not all(type(v) is kind for v in values):
                raise VocabularyError(
                    f"vocabulary of {feature!r}: {part} must be a list of {kind.__name__}"
                )
        parent_feature = content.get("parent_feature")
        if not isinstance(feature, str) or not isinstance(parent_feature, str | None):
            raise VocabularyError("feature and parent_feature of a vocabulary must be texts")
        return cls(
            feature,
            tuple(keys),
            tuple(names),
            None if parent is None else tuple(parent),
            parent_feature,
        )


@functools.cache
def climate_vocabulary() -> Vocabulary:
    """Return the Köppen–Geiger classes, keyed by their symbol, in the order of the class index."""
    classes = climate_classes()
    return Vocabulary("climate", tuple(c.symbol for c in classes), tuple(c.label for c in classes))


@functools.cache
def month_vocabulary() -> Vocabulary:
    """Return the twelve months, January first."""
    return Vocabulary("month", MONTHS, MONTHS)


FIXED_VOCABULARIES: dict[str, Callable[[], Vocabulary]] = {
    "climate": climate_vocabulary,
    "month": month_vocabulary,
}
"""Features with the same classes for every dataset; tables hold their class indices."""


def build_vocabularies(
    table: "pd.DataFrame", features: Iterable[str] = DEFAULT_FEATURES
) -> dict[str, Vocabulary]:
    """Make the vocabularies of `features`, in their order, from the training rows of a dataset.

    Climate and month always have all their classes. A place that occurs only in val or test has no
    class (its label is `IGNORE_INDEX`).

    Args:
        table: A dataset's table with ``split`` and, for every place feature, its name and its
            ``*_key`` column.
        features: Some of `KNOWN_FEATURES`.

    Raises:
        VocabularyError: a feature is unknown, or there are place features but no training rows.
    """
    features = tuple(features)
    unknown = [feature for feature in features if feature not in KNOWN_FEATURES]
    if unknown:
        raise VocabularyError(
            f"unknown feature {', '.join(map(repr, unknown))}; "
            f"known are {', '.join(KNOWN_FEATURES)}"
        )
    table = table[table["split"] == "train"]
    if not len(table) and set(features) & set(PLACE_FEATURES):
        raise VocabularyError("the dataset has no training rows, so its places cannot be listed")
    places: dict[str, Vocabulary] = {}
    parent_feature: str | None = None
    for feature in PLACE_FEATURES:
        if feature in features:
            parent = places[parent_feature] if parent_feature else None
            places[feature] = _place_vocabulary(table, feature, parent)
            parent_feature = feature
    return {f: places[f] if f in places else FIXED_VOCABULARIES[f]() for f in features}


def extended_vocabularies(
    known: Mapping[str, Vocabulary], table: "pd.DataFrame"
) -> dict[str, Vocabulary]:
    """Add the classes of a dataset's training rows to vocabularies, behind those that they have.

    Args:
        known: feature -> vocabulary; its classes keep their indices.
        table: see `build_vocabularies`.
    """
    own, found = build_vocabularies(table, known), dict[str, Vocabulary]()
    for feature in sorted(known, key=(*PLACE_FEATURES, *FIXED_VOCABULARIES).index):
        old, new = known[feature], own[feature]
        present = set(old.keys)
        fresh = [index for index, key in enumerate(new.keys) if key not in present]
        parent = old.parent
        if parent is not None and old.parent_feature is not None:
            larger = found[old.parent_feature]
            up = [-1 if new.parent is None else new.parent[index] for index in fresh]
            keys = [own[old.parent_feature].keys[index] if index >= 0 else None for index in up]
            indices = larger.encode(keys)
            parent = (*parent, *np.where(indices < 0, -1, indices).tolist())
        found[feature] = Vocabulary(
            feature,
            (*old.keys, *(new.keys[index] for index in fresh)),
            (*old.names, *(new.names[index] for index in fresh)),
            parent,
            old.parent_feature,
        )
    return {feature: found[feature] for feature in known}


def _place_vocabulary(table: "pd.DataFrame", feature: str, parent: Vocabulary | None) -> Vocabulary:
    key = f"{feature}_key"
    columns = [key, feature, *([] if parent is None else [f"{parent.feature}_key"])]
    # A key names its parent ("Ada County_Idaho_US"), so any row that has the parent will do;
    # sorting makes the choice independent of the order of the rows.
    rows = table.loc[table[key].notna(), columns].drop_duplicates()
    rows = rows.sort_values(columns, na_position="last").drop_duplicates(key)
    names = rows[feature].fillna(rows[key])
    if feature == "country":  # the dataset's column holds the ISO code
        names = names.map(country_name)
    if parent is None:
        return Vocabulary(feature, tuple(rows[key]), tuple(names))
    indices = parent.encode(rows[f"{parent.feature}_key"])
    indices = np.where(indices < 0, -1, indices)
    return Vocabulary(
        feature, tuple(rows[key]), tuple(names), tuple(indices.tolist()), parent.feature
    )


def place_name(key: str) -> str:
    """Return a place key as an address: "Bavaria_DE" is "Bavaria, Germany".

    The United States are left out: "Ada County_Idaho_US" is "Ada County, Idaho".
    """
    parts = [part for part in key.split("_") if part]
    if len(parts) > 1 and parts[-1] == "US":
        return ", ".join(parts[:-1])
    return ", ".join([*parts[:-1], country_name(parts[-1])]) if parts else key


def class_name(feature: str, key: str | SupportsInt) -> str:
    """Return the display name of a class.

    Args:
        feature: One of `KNOWN_FEATURES`.
        key: A key of the feature's vocabulary; or, for a climate or month, the class index as a
            number or its digits, which gives the full name ("Cfa, temperate, ...").
    """
    if feature not in FIXED_VOCABULARIES:
        return place_name(str(key))
    names = FIXED_VOCABULARIES[feature]().names
    if isinstance(key, str) and not (key.isdecimal() and len(key) < 4):
        return key
    index = int(key)
    return names[index] if 0 <= index < len(names) else str(key)
