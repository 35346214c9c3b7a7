"""A retrieval model in closed form, for datasets of hundreds to a few thousand photos.

Nothing is descended here: a model is a bank of embeddings and the solution of a linear system, so
that cross-validating it costs seconds. Every choice that is left to the data (kernel width, ridge,
sharpness) is made inside each training fold from leave-one-out predictions, which makes the
cross-validated numbers those of the whole procedure.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.geolocation import GeolocationModel, ModelConfig
from geoclip_core.model.kernel_ridge import cosine_kernel, leave_one_out
from geoclip_core.model.retrieval_head import MAX_RIDGE_BANK, RetrievalHead

Progress = Callable[[int, int], None]
Array = NDArray[np.float64]
MINIMUM_PHOTOS = 30


@dataclass(frozen=True)
class BankOptions:
    """How a retrieval model is fitted."""

    features: tuple[str, ...] = ("climate", "country")
    """Context features with a head each."""
    use_context: bool = True
    """Let context heads join the embedding at the coordinate head; off: no context heads at all."""
    vote: Literal["cosine", "kernel-ridge"] = "kernel-ridge"
    """How the bank answers: "kernel-ridge" up to 5,000 photos, "cosine" for more."""
    field_scales: tuple[float, ...] = (1492.7, 4000.0)
    """Kilometres in which the targets of kernel ridge fall off: GeoScore's own, and a wider one."""
    gammas: tuple[float, ...] = (1.5,)
    """Kernel widths exp(γ (similarity − 1)); of several, the data choose inside each fold."""
    ridges: tuple[float, ...] = (0.05,)
    """Ridges; of several, the data choose inside each fold."""
    readout_temperatures: tuple[float, ...] = (0.03,)
    """Sharpness of the field from which the answer is read; of several, the data choose."""
    temperature: float = 0.2
    """Divides the votes before the softmax, until calibration corrects it."""
    context_weight: float = 0.02
    """Share of the context in the similarity of the coordinate head, from 0 to below 1."""
    agreement: float = 0.8
    """Weight of places whose known context agrees with the photo's; 0 leaves it out."""
    context_gammas: tuple[float, ...] = (1.0,)
    """Kernel widths of the context heads; of several, the data choose inside each fold."""
    context_ridges: tuple[float, ...] = (0.1,)
    """Ridges of the context heads; of several, the data choose inside each fold."""
    join_width: int = 32
    """Numbers that each context feature hands to the coordinate head."""
    folds: int = 10
    """Folds of the cross-validation."""
    repeats: int = 3
    """How often the cross-validation is repeated with other folds."""
    group_km: float = 50.0
    """Photos closer than this stay in one fold in the spatially blocked cross-validation."""
    seed: int = 0
    """Seed of the folds."""
    use_all_rows: bool = False
    """Learn from the rows of every split. The numbers come from cross-validation either way."""
    license: str = ""
    """Licence of the photos, which the weights then carry as well ("CC BY-SA 4.0")."""
    note: str = ""
    """What a reader of the model card has to know about its numbers, in a sentence or two."""

    def __post_init__(self) -> None:
        if not 0 <= self.context_weight < 1:
            raise ValueError(f"context_weight must lie in [0, 1), not {self.context_weight}")
        if self.folds < 2 or self.repeats < 1:
            raise ValueError("folds must be at least 2 and repeats at least 1")
        if self.use_context and not self.features:
            raise ValueError("context is on but no feature is named: name some or switch it off")
        for field in (
            "gammas",
            "ridges",
            "readout_temperatures",
            "context_gammas",
            "context_ridges",
        ):
            if not getattr(self, field) or min(getattr(self, field)) <= 0:
                raise ValueError(f"{field} needs at least one value, each above zero")
        if self.agreement < 0:
            raise ValueError(f"agreement must not be negative, not {self.agreement}")


@dataclass(frozen=True)
class BankData:
    """What a retrieval model is fitted on: n photos, embedded and labelled."""

    embeddings: Tensor
    """(n, D) raw backbone embeddings."""
    coordinates: Array
    """(n, 2) degrees."""
    labels: dict[str, NDArray[np.int64]]
    """Feature -> (n,) class indices, −100 where unknown."""

    def __post_init__(self) -> None:
        rows = {len(self.embeddings), len(self.coordinates), *map(len, self.labels.values())}
        if len(rows) != 1:
            raise ValueError(f"embeddings, coordinates and labels differ in length: {sorted(rows)}")
        if len(self.embeddings) < MINIMUM_PHOTOS:
            raise ValueError(f"a bank needs at least {MINIMUM_PHOTOS} photos, got {min(rows)}")
        if not torch.isfinite(self.embeddings).all():
            raise ValueError("an embedding holds numbers that are not finite")

    def take(self, rows: NDArray[np.int64]) -> "BankData":
        """The photos at some rows."""
        labels = {feature: values[rows] for feature, values in self.labels.items()}
        return BankData(self.embeddings[rows], self.coordinates[rows], labels)


def fit_bank_model(
    data: BankData,
    vocabularies: Mapping[str, Vocabulary],
    options: BankOptions,
    backbone_config: BackboneConfig,
    block_widths: tuple[int, ...],
    name: str = "",
) -> GeolocationModel:
    """A model whose bank is `data`, uncalibrated.

    Raises:
        ValueError: too many photos for kernel ridge, or a feature that no photo knows.
    """
    count = len(data.embeddings)
    if count > MAX_RIDGE_BANK and options.vote == "kernel-ridge":
        raise ValueError(
            f"kernel ridge is for up to {MAX_RIDGE_BANK} photos, not {count}: set vote to cosine"
        )
    if count > MAX_RIDGE_BANK and options.use_context:
        raise ValueError(
            f"context heads in closed form are for up to {MAX_RIDGE_BANK} photos, not {count}: "
            "switch use_context off, or train another coordinate head"
        )
    model = _empty_model(data, vocabularies, options, backbone_config, block_widths, name)
    head, normaliser = model.coordinate_head, model.normaliser
    assert isinstance(head, RetrievalHead)
    normalised = normaliser.fit(data.embeddings.float())(data.embeddings.float())
    joined = normalised
    with torch.no_grad():
        if model.context_heads is not None and model.context_join is not None:
            blank = normalised.new_zeros(len(normalised), model.context_join.output_width)
            head.fit(torch.cat([normalised, blank], dim=1), data.coordinates)
            _choose_context(model, data, options)
            left_out = model.context_heads.left_out_logits()
            joined = torch.cat([normalised, model.context_join.fit(left_out)(left_out)], dim=1)
            if options.agreement:
                head.know_context(*model.context_join.known(data.labels))
        head.fit(joined, data.coordinates)
        if options.vote == "kernel-ridge":
            _, choice = choose_field(head, options)
            head.configure(**choice)
    head_options = {**model.config.head_options, **head.options}
    context_options = model.context_heads.options if model.context_heads is not None else {}
    model.config = replace(model.config, head_options=head_options, context_options=context_options)
    return model.eval()


def _empty_model(
    data: BankData,
    vocabularies: Mapping[str, Vocabulary],
    options: BankOptions,
    backbone_config: BackboneConfig,
    block_widths: tuple[int, ...],
    name: str,
) -> GeolocationModel:
    size, blocks = len(data.embeddings), len(block_widths)
    head: dict[str, Any] = {
        "bank_size": size,
        "vote": options.vote,
        "field_scales": list(options.field_scales),
        "temperature": options.temperature,
    }
    features = options.features if options.use_context else ()
    if features:
        share = options.context_weight
        head["block_weights"] = [(1 - share) / blocks] * blocks + [share]
        head["agreement"] = options.agreement
    config = ModelConfig(
        features=features,
        use_context=options.use_context,
        coordinate_head="retrieval",
        head_options=head,
        context_heads="kernel-ridge",
        context_options={"bank_size": size} if features else {},
        join_options={"width": options.join_width} if features else {},
    )
    chosen = {feature: vocabularies[feature] for feature in features}
    return GeolocationModel(config, backbone_config, block_widths, chosen, name=name)


def _choose_context(model: GeolocationModel, data: BankData, options: BankOptions) -> None:
    """Ridge, kernel width and sharpness of the context heads, by left-out log likelihood."""
    heads = model.context_heads
    heads.fit(data.labels)
    best = (-np.inf, heads.options)
    for gamma, ridge in itertools.product(options.context_gammas, options.context_ridges):
        heads.configure(gamma=gamma, ridge=ridge, sharpness=dict.fromkeys(model.features, 1.0))
        shares = heads.left_out_logits()
        total, sharpness = 0.0, {}
        for feature in model.features:
            known = data.labels[feature] != IGNORE_INDEX
            scores = shares[feature][torch.from_numpy(known)].double()
            labels = torch.from_numpy(data.labels[feature][known])
            fits = {
                factor: float(-torch.nn.functional.cross_entropy(scores * factor, labels))
                for factor in np.geomspace(2.0, 40.0, 25).tolist()
            }
            sharpness[feature] = max(fits, key=fits.__getitem__)
            total += fits[sharpness[feature]]
        if total > best[0]:
            best = (total, {"gamma": gamma, "ridge": ridge, "sharpness": sharpness})
    heads.configure(**{key: best[1][key] for key in ("gamma", "ridge", "sharpness")})


def choose_field(head: RetrievalHead, options: BankOptions) -> tuple[float, dict[str, float]]:
    """Kernel width, ridge and readout of the score field, by the left-out mean GeoScore.

    Args:
        head: with its bank filled.
        options: `gammas`, `ridges` and `readout_temperatures` to choose among.

    Returns:
        The share of the full GeoScore (0 to 1) among the bank's own photos, each left out; and
        the choice, as keyword arguments of `RetrievalHead.configure`.
    """
    similarity = head.bank_similarity().double()
    targets, field = head.target_field(), head.score_field()
    best: tuple[float, dict[str, float]] = (-np.inf, {})
    for gamma, ridge in itertools.product(options.gammas, options.ridges):
        votes = leave_one_out(cosine_kernel(similarity, gamma), targets, ridge)
        # a photo may not be found at its own place
        votes = votes.masked_fill(torch.eye(len(votes), dtype=torch.bool), -torch.inf)
        for temperature in options.readout_temperatures:
            expected = (votes / temperature).softmax(dim=1) @ field
            answer = expected.masked_fill(votes.isinf(), -torch.inf).argmax(dim=1)
            score = float(field[torch.arange(len(field)), answer].mean())
            if score > best[0]:
                choice = {"gamma": gamma, "ridge": ridge, "readout_temperature": temperature}
                best = (score, choice)
    return best
