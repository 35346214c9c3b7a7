"""Context heads trained by gradient descent: climate, month, state, county, city of a photo."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from geoclip_core.checks import Width
from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.errors import HintError
from geoclip_core.model.coordinate_heads import Dropout, trunk

HeadKind = Literal["linear", "mlp"]
JoinWidth = Annotated[int, Interval(ge=1, le=4096)]
CERTAIN_LOGIT = -12.0
"""Log-probability of a class that a hint rules out: e^−12, about as sure as trained heads are."""
HEAD_KINDS: tuple[str, ...] = ("linear", "mlp")


class ContextHeads(nn.Module):
    """One classifier per feature, on one normalised embedding.

    Features linked by a parent table (city → county → state) share one distribution: each place's
    score is added to the scores of all places inside it, a softmax runs over the smallest places,
    and their probabilities are summed level by level. State, county and city therefore agree, and a
    photo with an unknown city still trains its county and state. A place with no smaller place
    inside it counts as a smallest place itself.

    Args:
        embedding_width: width D of the normalised embedding.
        vocabularies: the classes of each feature, in the order of the output.
        kind: "linear", or "mlp" with one hidden layer that all features share.
        hidden: width of that layer.
        dropout: share of the inputs of the last layer that is dropped in training.

    Raises:
        ValueError: the kind is unknown, a feature has fewer than two classes, or the parent tables
            do not fit the vocabularies.
    """

    def __init__(
        self,
        embedding_width: int,
        vocabularies: Mapping[str, Vocabulary],
        kind: HeadKind = "linear",
        hidden: Width = 256,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        if kind not in HEAD_KINDS:
            raise ValueError(f"kind must be {' or '.join(HEAD_KINDS)}, not {kind!r}")
        empty = [feature for feature, vocabulary in vocabularies.items() if len(vocabulary) < 2]
        if empty or not vocabularies:
            raise ValueError(
                f"context heads need features of at least two classes; too few in {empty or 'all'}"
            )
        self.embedding_width = int(embedding_width)
        self.vocabularies = dict(vocabularies)
        self.kind, self.hidden, self.dropout = kind, int(hidden), float(dropout)
        layer_width = self.hidden if kind == "mlp" else 0
        self.trunk, width = trunk(self.embedding_width, layer_width, self.dropout)
        self._chains = _chains(self.vocabularies)
        layers: dict[str, nn.Module] = {}
        for feature, vocabulary in vocabularies.items():
            layers[feature] = layer = nn.Linear(width, len(vocabulary))
            # embeddings have entries of about 1, so training starts near equal probabilities
            nn.init.normal_(layer.weight, std=0.1 / width**0.5)
            nn.init.zeros_(layer.bias)
            if vocabulary.parent is not None and vocabulary.parent_feature in vocabularies:
                parents = torch.tensor(vocabulary.parent)
                self.register_buffer(f"_parents_{feature}", parents, persistent=False)
        self.layers = nn.ModuleDict(layers)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same heads again."""
        return {"kind": self.kind, "hidden": self.hidden, "dropout": self.dropout}

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """Compute {feature: logits (b, C)} of normalised embeddings (b, D).

        The logits of linked features are log-probabilities, which a softmax does not change.
        """
        # one row per class: the sums over places are then sums of whole rows, which take a tenth of
        # the time of sums of columns
        shared = self.trunk(embedding).T
        scores = {
            feature: torch.addmm(layer.bias[:, None], layer.weight, shared)
            for feature, layer in self.layers.items()
            if isinstance(layer, nn.Linear)
        }
        for chain in self._chains:
            scores |= self._summed(scores, chain)
        return {feature: values.T for feature, values in scores.items()}

    def _summed(self, scores: dict[str, Tensor], chain: tuple[str, ...]) -> dict[str, Tensor]:
        """Return log-probabilities {feature: (C, b)} of a chain from largest to smallest places."""
        # up: sum over all places inside a place, relative to the place's own score
        totals = {chain[-1]: scores[chain[-1]]}
        roots = []
        for smaller, larger in itertools.pairwise(reversed(chain)):
            parents = self.get_buffer(f"_parents_{smaller}")
            inside, orphans = _sum_to_parents(totals[smaller], parents, len(scores[larger]))
            totals[larger] = scores[larger] + inside
            if len(orphans):
                roots.append(orphans)
        normaliser = torch.logsumexp(torch.cat([totals[chain[0]], *roots]), 0, keepdim=True)
        # down: add the scores of the larger places that contain it
        above = {chain[0]: torch.zeros_like(scores[chain[0]])}
        for larger, smaller in itertools.pairwise(chain):
            parents = self.get_buffer(f"_parents_{smaller}")
            around = (above[larger] + scores[larger]).index_select(0, parents.clamp_min(0))
            orphaned = parents < 0
            if orphaned.any():
                around = around.masked_fill(orphaned[:, None], 0.0)
            above[smaller] = around
        return {feature: totals[feature] + above[feature] - normaliser for feature in chain}


class ContextJoin(nn.Module):
    """Projects context logits to `width` numbers per feature for the coordinate head.

    The log-probabilities of each feature are centred and scaled to about 1 before the projection,
    so that features with two and with thousands of classes have similar weight.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, vocabularies: Mapping[str, Vocabulary], width: JoinWidth = 16) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"the join needs a width of at least 1, not {width}")
        self.width = int(width)
        self.projections = nn.ModuleDict(
            {feature: nn.Linear(len(words), self.width) for feature, words in vocabularies.items()}
        )

    @property
    def output_width(self) -> int:
        """Width of the joined context: `width` × number of features."""
        return self.width * len(self.projections)

    def neutral(self, joined: Tensor) -> Tensor:
        """Return the join (b, width × F) of logits that are all equal, in place of `joined`."""
        biases = [self.projections[feature].bias for feature in self.projections]
        return torch.cat([torch.as_tensor(bias) for bias in biases]).expand_as(joined)

    def forward(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Join {feature: logits (b, C)} to (b, width × F)."""
        joined = []
        for feature, projection in self.projections.items():
            # centred log-probabilities are centred logits, since they differ by a constant;
            # the gradients of sums and norms, unlike those of means, are not written out per class
            values = logits[feature]
            classes = values.shape[1]
            values = values - values.sum(1, keepdim=True) / classes
            # values are scaled to log(1 + spread): confident heads weigh more, within limits
            length = torch.linalg.vector_norm(values, dim=1, keepdim=True)
            spread = (length.square() / classes + 1e-6).sqrt()
            scale = torch.log1p(spread) / spread
            # scaled after the projection, which has fewer columns; a product from the left keeps
            # gradients class by class, as the heads store their logits
            assert isinstance(projection, nn.Linear)
            joined.append((projection.weight @ values.T).T * scale + projection.bias)
        return torch.cat(joined, dim=1)


def overruled(
    logits: Mapping[str, Tensor], given: Mapping[str, int], vocabularies: Mapping[str, Vocabulary]
) -> dict[str, Tensor]:
    """Return logits in which known classes replace what the heads say.

    A known place also rules out the places that do not contain it, or that it does not contain:
    "Texas" leaves the counties of Texas, "Travis County" leaves the state of Texas.

    Args:
        logits: feature -> (b, C).
        given: feature -> index of the class that is true.
        vocabularies: of the features.

    Raises:
        HintError: two given places contradict each other.
    """
    allowed = {f: torch.ones(len(v), dtype=torch.bool) for f, v in vocabularies.items()}
    for feature, index in given.items():
        only = torch.zeros(len(vocabularies[feature]), dtype=torch.bool)
        only[index] = True
        allowed[feature] &= only
        _narrow_children(feature, only, vocabularies, allowed)
        current, at = feature, index
        while (parent := vocabularies[current].parent_feature) in vocabularies:
            table = vocabularies[current].parent
            if parent is None or table is None or table[at] < 0:
                break
            current, at = parent, table[at]
            around = torch.zeros(len(vocabularies[current]), dtype=torch.bool)
            around[at] = True
            allowed[current] &= around
    result = {}
    for feature, values in logits.items():
        kept = allowed[feature].to(values.device)
        if feature in given and not kept.any():
            raise HintError(f"the given {feature} contradicts another given place")
        if kept.all() or not kept.any():
            result[feature] = values
            continue
        certain = values.masked_fill(~kept, -torch.inf).log_softmax(dim=1)
        result[feature] = certain.clamp_min(CERTAIN_LOGIT)
    return result


def _narrow_children(
    feature: str,
    kept: Tensor,
    vocabularies: Mapping[str, Vocabulary],
    allowed: dict[str, Tensor],
) -> None:
    """Rule out the places that lie in none of the kept classes of a feature."""
    for smaller, vocabulary in vocabularies.items():
        if vocabulary.parent_feature != feature or vocabulary.parent is None:
            continue
        parents = torch.tensor(vocabulary.parent)
        inside = kept[parents.clamp_min(0)] & (parents >= 0)
        if inside.any():
            allowed[smaller] &= inside
            _narrow_children(smaller, inside, vocabularies, allowed)


def _chains(vocabularies: Mapping[str, Vocabulary]) -> list[tuple[str, ...]]:
    """Return chains of features linked by parent tables, each from largest to smallest places.

    Raises:
        ValueError: two features have the same parent, or a parent class does not exist.
    """
    inside: dict[str, str] = {}
    for feature, vocabulary in vocabularies.items():
        parent = vocabulary.parent_feature
        if parent is None or parent not in vocabularies:
            continue
        if parent in inside:
            raise ValueError(f"{feature!r} and {inside[parent]!r} both lie inside {parent!r}")
        if vocabulary.parent is None or max(vocabulary.parent) >= len(vocabularies[parent]):
            raise ValueError(f"{feature!r} names a class of {parent!r} that does not exist")
        inside[parent] = feature
    chains = []
    for start in inside:
        if start in inside.values():
            continue
        chain = [start]
        while chain[-1] in inside:
            chain.append(inside[chain[-1]])
        chains.append(tuple(chain))
    return chains


def _sum_to_parents(values: Tensor, parents: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exp (count, b) of each parent's children among values (C, b), and orphans.

    A parent without children gets 0: it is a smallest place itself. Orphans (parent −1) are
    returned unchanged, (number of orphans, b).
    """
    orphans = values[:0]
    index, owned = parents, values
    # without orphans, a selection of all rows would be copied and its gradient written twice
    if bool((parents < 0).any()):
        (known,), (orphaned,) = torch.where(parents >= 0), torch.where(parents < 0)
        index, owned = parents[known], values.index_select(0, known)
        orphans = values.index_select(0, orphaned)
    highest = values.new_full((count, values.shape[1]), -torch.inf)
    with torch.no_grad():
        highest.scatter_reduce_(0, index[:, None].expand_as(owned), owned.detach(), "amax")
        empty = highest.isinf()
        highest = highest.masked_fill(empty, 0.0)
    terms = (owned - highest.index_select(0, index)).exp()
    sums = torch.zeros_like(highest).index_add(0, index, terms)
    summed = sums.masked_fill(empty, 1.0).log() + highest
    return summed, orphans
