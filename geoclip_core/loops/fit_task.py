"""What `fit` learns: context heads and coordinate head, alone or with the backbone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.earth.sphere import geoscore, haversine_km
from geoclip_core.loops.batches import Indices
from geoclip_core.loops.fit_model import TrainingPhotos
from geoclip_core.loops.fit_options import FitOptions
from geoclip_core.loops.optimizer import build_optimizer
from geoclip_core.loops.photo_loader import CachedEmbeddings, LoadedPhotos, PhotoLoader
from geoclip_core.model.geolocation import GeolocationModel
from geoclip_core.model.losses import (
    IGNORE_INDEX,
    balanced_logits,
    label_weight,
    log_priors,
    masked_cross_entropy,
)

VALIDATION_BATCH = 512
Array = NDArray[np.floating]


class FitObjective(nn.Module):
    """Model and losses in one module, so that a distributed run sees one forward pass."""

    def __init__(self, model: GeolocationModel, options: FitOptions, train: TrainingPhotos) -> None:
        super().__init__()
        self.model, self.options = model, options
        for feature in model.features:
            priors = log_priors(train.labels[feature], len(model.vocabularies[feature]))
            self.register_buffer(f"priors_{feature}", priors, persistent=False)

    def forward(
        self,
        inputs: Tensor | list[Tensor],
        coordinates: Tensor,
        labels: Mapping[str, Tensor],
        denominators: Mapping[str, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of some photos as their share of the loss of a whole step.

        Args:
            inputs: embeddings (b, D), or the views of b photos.
            coordinates: (b, 2) degrees.
            labels: feature -> (b,).
            denominators: "photos" and each feature -> number of (labelled) photos in the step.

        Returns:
            The loss, and its parts by name.
        """
        embedding = inputs if isinstance(inputs, Tensor) else self.model.backbone.embed(inputs)
        output = self.model(embedding)
        share = len(coordinates) / denominators["photos"]
        parts = {"coordinates": self.model.coordinate_head.loss(output.coordinates, coordinates)}
        parts["coordinates"] = parts["coordinates"] * share
        total = self.options.coordinate_weight * parts["coordinates"]
        for feature, logits in output.context.items():
            priors = self.get_buffer(f"priors_{feature}")
            logits = balanced_logits(logits, priors, self.options.class_balance)
            summed = masked_cross_entropy(logits, labels[feature], reduction="sum")
            parts[feature] = summed / max(denominators[feature], 1.0)
            total = total + self.options.context_weight(feature) * parts[feature]
        return total, {"loss": total.detach(), **{k: v.detach() for k, v in parts.items()}}


class FitTask:
    """Heads on cached embeddings, or end to end through the backbone (see `training.Task`).

    Args:
        model: with its backbone attached if that learns.
        options: of the fit.
        train, val: labels and places.
        inputs: embeddings of the training photos or, end to end, the photos themselves.
        val_embeddings: gives the validation embeddings (m, D) with the weights as they are.
    """

    criterion = "median_km"

    def __init__(
        self,
        model: GeolocationModel,
        options: FitOptions,
        train: TrainingPhotos,
        val: TrainingPhotos,
        inputs: CachedEmbeddings | PhotoLoader,
        val_embeddings: Callable[[], Array],
    ) -> None:
        self.model, self.options, self.train, self.val = model, options, train, val
        self.source, self.val_embeddings = inputs, val_embeddings
        self.module = FitObjective(model, options, train)
        self.optimizer = build_optimizer(
            self.module,
            options.learning_rate,
            options.backbone_learning_rate,
            options.weight_decay,
        )

    def inputs(self, epoch: int, batches: Sequence[Sequence[Indices]]) -> Iterator[list[Any]]:
        """Embeddings from the cache, or photos."""
        return self.source.epoch(epoch, batches)

    def loss(
        self,
        module: nn.Module,
        inputs: Tensor | LoadedPhotos,
        rows: Indices,
        batch: Indices,
        processes: int,
    ) -> tuple[Tensor, dict[str, float]]:
        """See `training.Task.loss`."""
        device = next(module.parameters()).device
        values: Any = inputs
        if isinstance(inputs, LoadedPhotos):
            rows, values = inputs.rows, [view.to(device) for view in inputs.views]
        else:
            values = inputs.to(device)
        denominators = {"photos": float(len(batch))}
        for feature in self.model.features:
            denominators[feature] = float(label_weight(self.train.labels[feature][batch]))
        labels = {f: self.train.labels[f][rows].to(device) for f in self.model.features}
        coordinates = self.train.coordinates[rows].to(device)
        total, parts = module(values, coordinates, labels, denominators)
        # the gradients of the processes are averaged, the parts of a step are to be summed
        return total * processes, {name: float(v) * processes for name, v in parts.items()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Median and mean km, GeoScore, loss, and top-1 accuracy of each head."""
        self.model.eval()
        every = np.asarray(self.val_embeddings())
        readable = np.flatnonzero(np.isfinite(every).all(axis=1))
        device = self.model.normaliser.mean.device
        answers, losses, hits = [], 0.0, {f: [0, 0] for f in self.model.features}
        for start in range(0, len(readable), VALIDATION_BATCH):
            rows = readable[start : start + VALIDATION_BATCH]
            values = torch.from_numpy(every[rows].astype(np.float32))
            output = self.model(values.to(device))
            coordinates = self.val.coordinates[rows].to(device)
            head = self.model.coordinate_head
            answers.append(head.answers(output.coordinates).cpu().double().numpy())
            losses += float(head.loss(output.coordinates, coordinates)) * len(coordinates)
            for feature, logits in output.context.items():
                truth = self.val.labels[feature][rows]
                known = truth != IGNORE_INDEX
                right = logits.argmax(1).cpu()[known] == truth[known]
                hits[feature][0] += int(right.sum())
                hits[feature][1] += int(known.sum())
        truth = self.val.coordinates[readable].double().numpy()
        distances = haversine_km(np.concatenate(answers), truth)
        return {
            "median_km": float(np.median(distances)),
            "mean_km": float(np.mean(distances)),
            "geoscore": float(np.mean(geoscore(distances))),
            "coordinates": losses / len(readable),
            **{f"{f}_top1": right / n for f, (right, n) in hits.items() if n},
        }
