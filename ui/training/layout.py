"""Where each option stands in the training form, and when it has nothing to say.

An option that is not named here still appears, among the other options.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.options import Option, describe
from ui.training.values import plain

Rows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Layout:
    """The order of a form."""

    rows: Rows
    """Always in view, row by row; the second of two takes two thirds of the width."""
    sections: tuple[tuple[str, tuple[str, ...]], ...]
    """Folded away, under headings."""


_RUN = ("recipe", "data", "output", "runs", "resume")
FIXED = frozenset(_RUN)
"""Options that the page decides."""

_LEARNING = (
    *("accumulation", "backbone_learning_rate", "weight_decay", "warmup", "clip_norm"),
    *("patience", "augment", "val_fraction", "seed"),
)
_MACHINE = ("device", "precision", "workers", "cache_dir", "log_every", "save_seconds")
_PHOTOS = ("views", "fit", "depths", "depth_pooling", "projection")
_CELLS = ("cells", "smoothing", "offset_rank")
_BANK = ("vote", "gammas", "ridges", "context_share", "folds", "repeats", "all_rows")
_CONTEXT = ("context_weights", "class_balance", "context_hidden", "join_width")
_GRADIENT = (
    *("epochs", "batch_size", "learning_rate", "train", "dropout", "hidden"),
    *("context_weights", "class_balance", "context_hidden", "coordinate_weight"),
    *(name for name in _LEARNING if name not in ("val_fraction", "seed")),
)
"""What a closed form does not do."""

LAYOUTS = {
    "fit": Layout(
        (
            ("backbone", "train", "coordinate_head"),
            ("use_context", "features"),
            ("epochs", "batch_size", "learning_rate"),
        ),
        (
            ("What the backbone sees", _PHOTOS),
            ("Coordinate head", ("coordinate_weight", "hidden", "dropout", *_CELLS, *_BANK)),
            ("Context heads", _CONTEXT),
            ("Learning", _LEARNING),
            ("This computer", _MACHINE),
        ),
    ),
    "pretrain": Layout(
        (
            ("backbone", "train", "text"),
            ("drop_probability", "features"),
            ("epochs", "batch_size", "learning_rate"),
        ),
        (
            ("What the backbone sees", _PHOTOS),
            ("Text tower", ("train_text", "width")),
            ("Learning", _LEARNING),
            ("This computer", _MACHINE),
        ),
    ),
}


def irrelevant(values: Mapping[str, Any]) -> set[str]:
    """Options that do nothing, given the others: the form leaves them out, at their defaults."""
    found: set[str] = set()
    head = values.get("coordinate_head")
    if head is not None and head != "geocells":
        found.update(_CELLS)
    if head is not None and head != "retrieval":
        found.update(_BANK)
    if head == "retrieval":
        found.update(_GRADIENT)
    if values.get("use_context") is False:
        found.update(("features", *_CONTEXT, "context_share"))
    if values.get("train") == "backbone=none" or head == "retrieval":
        found.update(("augment", "backbone_learning_rate"))
    if not values.get("depths") and "depths" in values:
        found.add("depth_pooling")
    if str(values.get("backbone", "")).startswith("efficientnet-lite"):
        found.add("projection")
    if "drop_probability" in values:
        found.add("accumulation")  # parts of a step would not see each other's captions
    if values.get("vote") == "cosine":
        found.add("ridges")
    return found


def defaults(cls: type, names: set[str]) -> dict[str, Any]:
    """The plain default of some options."""
    return {option.name: plain(option.default) for option in describe(cls) if option.name in names}


def in_rows(layout: Layout, options: Sequence[Option]) -> list[list[Option]]:
    """The options in view, row by row; those of the layout that do not exist are passed over."""
    by_name = {option.name: option for option in options}
    rows = [[by_name[name] for name in row if name in by_name] for row in layout.rows]
    return [row for row in rows if row]


def in_sections(layout: Layout, options: Sequence[Option]) -> list[tuple[str, list[Option]]]:
    """The folded options under their headings; what the layout does not name comes last."""
    by_name = {option.name: option for option in options}
    for row in layout.rows:
        for name in row:
            by_name.pop(name, None)
    sections = []
    for title, names in layout.sections:
        found = [by_name.pop(name) for name in names if name in by_name]
        if found:
            sections.append((title, found))
    if by_name:
        sections.append(("Other", list(by_name.values())))
    return sections
