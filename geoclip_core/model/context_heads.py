"""Context heads trained by gradient descent: climate, month, state, county, city of a photo."""

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.model.coordinate_heads import trunk

HeadKind = Literal["linear", "mlp"]
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
        hidden: int = 256,
        dropout: float = 0.0,
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
        shared = self.trunk(embedding)
        scores = {feature: layer(shared) for feature, layer in self.layers.items()}
        for chain in self._chains:
            scores |= self._summed(scores, chain)
        return scores

    def _summed(self, scores: dict[str, Tensor], chain: tuple[str, ...]) -> dict[str, Tensor]:
        """Return log-probabilities {feature: (b, C)} of a chain from largest to smallest places."""
        # up: sum over all places inside a place, relative to the place's own score
        totals = {chain[-1]: scores[chain[-1]]}
        roots = []
        for smaller, larger in itertools.pairwise(reversed(chain)):
            parents = self.get_buffer(f"_parents_{smaller}")
            inside, orphans = _sum_to_parents(totals[smaller], parents, scores[larger].shape[1])
            totals[larger] = scores[larger] + inside
            roots.append(orphans)
        normaliser = torch.logsumexp(torch.cat([totals[chain[0]], *roots], dim=1), 1, keepdim=True)
        # down: add the scores of the larger places that contain it
        above = {chain[0]: torch.zeros_like(scores[chain[0]])}
        for larger, smaller in itertools.pairwise(chain):
            parents = self.get_buffer(f"_parents_{smaller}")
            around = (above[larger] + scores[larger])[:, parents.clamp_min(0)]
            above[smaller] = torch.where(parents >= 0, around, torch.zeros_like(around))
        return {feature: totals[feature] + above[feature] - normaliser for feature in chain}


class ContextJoin(nn.Module):
    """Projects context logits to `width` numbers per feature for the coordinate head.

    The log-probabilities of each feature are centred and scaled to about 1 before the projection,
    so that features with two and with thousands of classes have similar weight.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, vocabularies: Mapping[str, Vocabulary], width: int = 16) -> None:
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

    def forward(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Join {feature: logits (b, C)} to (b, width × F)."""
        joined = []
        for feature, projection in self.projections.items():
            values = torch.log_softmax(logits[feature], dim=1)
            values = values - values.mean(1, keepdim=True)
            # values are scaled to log(1 + spread): confident heads weigh more, within limits
            spread = values.square().mean(1, keepdim=True).add(1e-6).sqrt()
            joined.append(projection(values * (torch.log1p(spread) / spread)))
        return torch.cat(joined, dim=1)


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
    """Return the log-sum-exp (b, count) of each parent's children among values (b, C), and orphans.

    A parent without children gets 0: it is a smallest place itself. Orphans (parent −1) are
    returned unchanged, (b, number of orphans).
    """
    known = parents >= 0
    index, owned = parents[known], values[:, known]
    highest = torch.full((len(values), count), -torch.inf, dtype=values.dtype, device=values.device)
    with torch.no_grad():
        highest.scatter_reduce_(1, index.expand(len(values), -1), owned.detach(), "amax")
        empty = highest.isinf()
        highest = highest.masked_fill(empty, 0.0)
    terms = (owned - highest[:, index]).exp()
    sums = torch.zeros_like(highest).index_add(1, index, terms)
    summed = sums.masked_fill(empty, 1.0).log() + highest
    return summed, values[:, ~known]
