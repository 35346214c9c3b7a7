"""The older recipe, as a yardstick: latitude and longitude as two plain numbers under an L2 loss.

One linear layer on the raw embedding, beside it the raw logits of the context heads, trained by
the mean squared error in degrees. It has no date line, no cos(latitude) and no bounds. It is given
what any model here is given: it starts from the mean place, and val chooses the epoch.
"""

import copy
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoclip_core.data.vocabulary import IGNORE_INDEX
from geoclip_core.earth.sphere import haversine_km

Array = NDArray[np.floating]
Places = NDArray[np.float64]
STEPS, BATCH, LEARNING_RATE = 1500, 128, 1e-3


class DegreesModel(nn.Module):
    """Linear heads on an embedding.

    Args:
        width: width D of the embedding.
        classes: feature -> number of classes; empty without context.
    """

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({f: nn.Linear(width, count) for f, count in classes.items()})
        self.last = nn.Linear(width + sum(classes.values()), 2)

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(b, D) -> (b, 2) degrees as they come, and feature -> (b, classes) logits."""
        logits = {feature: head(embeddings) for feature, head in self.heads.items()}
        return self.last(torch.cat([embeddings, *logits.values()], dim=1)), logits

    @torch.no_grad()
    def answer(self, embeddings: Array) -> tuple[Places, dict[str, NDArray[np.float32]]]:
        """(m, D) -> (m, 2) places and the logits.

        Nothing keeps the numbers on the Earth: what left it is brought back.
        """
        guess, logits = self(torch.from_numpy(np.asarray(embeddings, dtype=np.float32)))
        degrees = guess.double().numpy()
        places = np.stack([degrees[:, 0].clip(-90, 90), (degrees[:, 1] + 180) % 360 - 180], axis=1)
        return places, {feature: scores.numpy() for feature, scores in logits.items()}


def fit_degrees_model(
    train: tuple[Array, Places],
    val: tuple[Array, Places],
    labels: Mapping[str, NDArray[np.int64]],
    classes: Mapping[str, int],
    seed: int = 0,
) -> Callable[[Array], tuple[Places, dict[str, NDArray[np.float32]]]]:
    """Fit it, and hand back what answers embeddings.

    Args:
        train: embeddings (n, D), raw, and places (n, 2).
        val: the same of the photos on which the epoch is chosen, by their median km.
        labels: feature -> (n,) class indices of train; empty without context.
        classes: feature -> number of classes.
        seed: of weights and order.

    Returns:
        `DegreesModel.answer`.
    """
    torch.manual_seed(seed)
    values = torch.from_numpy(np.asarray(train[0], dtype=np.float32))
    truth = torch.from_numpy(np.asarray(train[1], dtype=np.float32))
    known = {feature: torch.from_numpy(index) for feature, index in labels.items()}
    model = DegreesModel(values.shape[1], classes)
    with torch.no_grad():
        model.last.bias.copy_(truth.mean(dim=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    best, weights = np.inf, copy.deepcopy(model.state_dict())
    for _ in range(math.ceil(STEPS * BATCH / len(values))):
        for rows in torch.randperm(len(values)).split(BATCH):
            loss = _loss(model, values[rows], truth[rows], {f: k[rows] for f, k in known.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        median = float(np.median(haversine_km(model.answer(val[0])[0], val[1])))
        if median < best:
            best, weights = median, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return model.answer


def _loss(
    model: DegreesModel,
    embeddings: torch.Tensor,
    truth: torch.Tensor,
    labels: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    guess, logits = model(embeddings)
    loss = nn.functional.mse_loss(guess, truth)
    for feature, scores in logits.items():
        if bool((labels[feature] != IGNORE_INDEX).any()):
            loss = loss + nn.functional.cross_entropy(
                scores, labels[feature], ignore_index=IGNORE_INDEX
            )
    return loss
