"""What a retrieval model scores if its settings are chosen without the photos it is scored on.

Choosing among many settings by their cross-validated score flatters the winner. Here every outer
fold chooses anew, by the left-out GeoScore among its training photos alone (nested
cross-validation; Cawley & Talbot, JMLR 2010).
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from geoclip_core.earth.sphere import haversine_km
from geoclip_core.loops.bank_model import BankData, BankOptions, choose_field, fit_bank_model
from geoclip_core.loops.bank_validation import random_folds
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.geolocation import GeolocationModel

Array = NDArray[np.float64]
Chosen = tuple["Features", tuple[float, ...]]
FIELD_SCALES = ((1492.7,), (1492.7, 4000.0), (750.0, 1492.7, 4000.0))
GAMMAS, RIDGES, READOUTS = (1.0, 1.5, 2.0), (0.03, 0.05, 0.1), (0.02, 0.03, 0.05)


@dataclass(frozen=True)
class Features:
    """Columns of an embedding: some of its views, each with the head's features and some depths."""

    views: tuple[int, ...]
    """Indices of the views."""
    depths: tuple[int, ...]
    """Indices of the blocks after the head's, in the order of the embedding."""

    def blocks(self, per_view: int) -> list[int]:
        """Indices of the feature blocks, of an embedding with so many a view."""
        of_view = (0, *(depth + 1 for depth in self.depths))
        return [view * per_view + block for view in self.views for block in of_view]


@dataclass(frozen=True)
class SelectionResult:
    """What nested cross-validation gave."""

    errors_km: Array
    """(repeats, n)."""
    settings: int
    """How many each fold chose among."""
    chosen: Counter[Chosen] = field(default_factory=Counter)
    """How often each set of features won, and with which field scales."""


def candidate_features(views: int, depths: int) -> list[Features]:
    """Every set of views, with no, the first, the first half, or all of the depths."""
    subsets = [
        chosen
        for size in range(1, views + 1)
        for chosen in itertools.combinations(range(views), size)
    ]
    counts = sorted({0, min(1, depths), (depths + 1) // 2, depths})
    return [Features(chosen, tuple(range(count))) for chosen in subsets for count in counts]


def count_settings(features: Sequence[Features]) -> int:
    """How many settings there are to choose among."""
    return len(features) * len(FIELD_SCALES) * len(GAMMAS) * len(RIDGES) * len(READOUTS)


class NestedSelection:
    """Chooses and measures a retrieval model without context.

    Args:
        data: n photos, embedded with every view and depth.
        features: what to choose columns among.
        options: folds, repeats, seed, and everything that is not chosen.
        backbone: of the embeddings.
        view_blocks: widths of the blocks of one view.
    """

    def __init__(
        self,
        data: BankData,
        features: Sequence[Features],
        options: BankOptions,
        backbone: BackboneConfig,
        view_blocks: Sequence[int],
    ) -> None:
        self.features, self.backbone, self.view_blocks = list(features), backbone, list(view_blocks)
        self.data = BankData(data.embeddings, data.coordinates, {})
        views, rest = divmod(data.embeddings.shape[1], sum(self.view_blocks))
        if rest:
            raise ValueError(
                f"embeddings of {data.embeddings.shape[1]} numbers do not hold whole views of "
                f"{sum(self.view_blocks)}"
            )
        self._all_widths = self.view_blocks * views
        self.options = replace(
            options,
            use_context=False,
            vote="kernel-ridge",
            gammas=GAMMAS,
            ridges=RIDGES,
            readout_temperatures=READOUTS,
        )

    def measure(self, progress: Callable[[int, int], None] | None = None) -> SelectionResult:
        """Errors of every photo, each by a model whose training and settings never saw it."""
        count = len(self.data.embeddings)
        errors = np.full((self.options.repeats, count), np.nan)
        chosen: Counter[Chosen] = Counter()
        rounds = self.options.repeats * self.options.folds
        for repeat, fold in itertools.product(
            range(self.options.repeats), range(self.options.folds)
        ):
            fold_of = random_folds(count, self.options.folds, self.options.seed + repeat)
            held = fold_of == fold
            features, options = self.choose(np.flatnonzero(~held))
            chosen[features, options.field_scales] += 1
            answers = self._answers(features, options, held)
            errors[repeat, held] = haversine_km(answers, self.data.coordinates[held])
            if progress:
                progress(repeat * self.options.folds + fold + 1, rounds)
        return SelectionResult(errors, count_settings(self.features), chosen)

    def choose(self, rows: NDArray[np.int64]) -> tuple[Features, BankOptions]:
        """The setting with the best left-out GeoScore among some photos."""
        best: tuple[float, Features, BankOptions] | None = None
        for features, scales in itertools.product(self.features, FIELD_SCALES):
            options = replace(self.options, field_scales=scales)
            head = self._fit(features, options, rows).coordinate_head
            fixed = replace(
                options,
                gammas=(head.gamma,),
                ridges=(head.ridge,),
                readout_temperatures=(head.readout_temperature,),
            )
            score, _ = choose_field(head, fixed)
            if best is None or score > best[0]:
                best = (score, features, fixed)
        assert best is not None
        return best[1], best[2]

    def _fit(
        self, features: Features, options: BankOptions, rows: NDArray[np.int64]
    ) -> GeolocationModel:
        data = BankData(self._columns(features)[rows], self.data.coordinates[rows], {})
        return fit_bank_model(data, {}, options, self.backbone, self._widths(features))

    def _answers(self, features: Features, options: BankOptions, held: NDArray[np.bool_]) -> Array:
        model = self._fit(features, options, np.flatnonzero(~held))
        estimates = model.predict(self._columns(features)[np.flatnonzero(held)])
        return np.array([estimate.posterior.mode() for estimate in estimates])

    def _columns(self, features: Features) -> torch.Tensor:
        blocks = self.data.embeddings.split(self._all_widths, dim=1)
        return torch.cat([blocks[i] for i in features.blocks(len(self.view_blocks))], dim=1)

    def _widths(self, features: Features) -> tuple[int, ...]:
        return tuple(self._all_widths[i] for i in features.blocks(len(self.view_blocks)))
