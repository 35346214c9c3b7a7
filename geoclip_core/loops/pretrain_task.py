"""What `pretrain` learns: photos and captions that belong together are close."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.data.captions import caption
from geoclip_core.data.vocabulary import KNOWN_FEATURES
from geoclip_core.loops.batches import Indices
from geoclip_core.loops.gather import gather_counts, gather_rows, scaled_gradient
from geoclip_core.loops.optimizer import build_optimizer
from geoclip_core.loops.photo_loader import CachedEmbeddings, LoadedPhotos, PhotoLoader
from geoclip_core.loops.pretrain_evaluation import PairEncoder
from geoclip_core.loops.pretrain_options import PretrainOptions
from geoclip_core.model.losses import contrastive_loss
from geoclip_core.model.text_tower import SMALL

Array = NDArray[np.floating]
SINGLE_PART = 0.25
"""Share of the captions that say one thing alone."""
NOTHING = caption({})


class EpochCaptions:
    """The captions of the training photos, other ones in every epoch.

    Parts are dropped at random, and now and then all but one: captions that say a single thing are
    what classes are read from later. What a caption drops depends on (seed, epoch, row) alone, so
    every process knows the captions of all.
    """

    def __init__(self, table: pd.DataFrame, options: PretrainOptions) -> None:
        columns = [name for name in KNOWN_FEATURES if name in table]
        self._rows = table[columns].astype(object).to_dict("records")
        self.options = options

    def of(self, epoch: int, rows: Iterable[int]) -> list[str]:
        """Captions of some rows in an epoch."""
        return [self._caption(epoch, int(row)) for row in rows]

    def _caption(self, epoch: int, row: int) -> str:
        rng = np.random.default_rng([self.options.seed, 1, epoch, row])
        features = self.options.features
        single = rng.random() < SINGLE_PART
        text = caption(
            self._rows[row],
            rng,
            features=(str(rng.choice(features)),) if single else features,
            drop_probability=self.options.drop_probability,
        )
        if single and text == NOTHING:  # the one thing that was to be said is not known
            return caption(self._rows[row], features=features)
        return text


class PretrainObjective(nn.Module):
    """Both towers and the loss in one module."""

    def __init__(self, pair: nn.Module, process: int, processes: int) -> None:
        super().__init__()
        self.pair, self.process, self.processes = pair, process, processes

    def forward(
        self, inputs: Tensor | list[Tensor], tokens: dict[str, Tensor], same: Tensor
    ) -> Tensor:
        """The contrastive loss over the photos of all processes.

        Args:
            inputs: embeddings (b, D) or views of this process's photos.
            tokens: of this process's captions.
            same: (n, n) whether two photos of the step have the same caption.
        """
        if isinstance(inputs, Tensor):
            images = self.pair.encode_embedding(inputs)
        else:
            images = self.pair.encode_images(inputs)
        texts = self.pair.encode_tokens(tokens)
        counts = gather_counts(len(images), self.processes, images.device)
        images = gather_rows(images.float(), counts, self.process)
        texts = gather_rows(texts.float(), counts, self.process)
        scale = scaled_gradient(self.pair.scale, 1 / self.processes)
        return contrastive_loss(images, texts, scale, same)


class PretrainTask:
    """Contrastive pretraining (see `training.Task`).

    Args:
        pair: `ImageTextModel` or `ClipPair`, frozen as it shall be.
        options: of the pretraining.
        table: training rows of the dataset.
        inputs: embeddings of the training photos or, where the image tower learns, the photos.
        encoder: of the validation photos.
        process, processes: of a distributed run.
    """

    criterion = "loss"

    def __init__(
        self,
        pair: Any,
        options: PretrainOptions,
        table: pd.DataFrame,
        inputs: CachedEmbeddings | PhotoLoader,
        encoder: PairEncoder,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.pair, self.options, self.encoder = pair, options, encoder
        self.captions = EpochCaptions(table, options)
        self.process, self.processes = process, processes
        self.source = inputs
        self.module = PretrainObjective(pair, process, processes)
        self.optimizer = build_optimizer(
            self.module,
            options.learning_rate,
            options.backbone_learning_rate,
            options.weight_decay,
            slow_parts=("backbone.",) if options.text == SMALL else ("backbone.", "text."),
        )
        self._epoch = 0

    def inputs(self, epoch: int, batches: Sequence[Sequence[Indices]]) -> Iterator[list[Any]]:
        """Embeddings from the cache, or photos."""
        self._epoch = epoch
        return self.source.epoch(epoch, batches)

    def loss(
        self,
        module: nn.Module,
        inputs: Tensor | LoadedPhotos,
        rows: Indices,
        batch: Indices,
        processes: int,
    ) -> tuple[Tensor, dict[str, float]]:
        """See `training.Task.loss`: every process has the loss of the whole step."""
        device = next(module.parameters()).device
        values: Any
        if isinstance(inputs, LoadedPhotos):
            rows, values = inputs.rows, [view.to(device) for view in inputs.views]
            batch = self._readable_batch(rows, device)
        else:
            values = inputs.to(device)
        texts = self.captions.of(self._epoch, batch)
        _, kinds = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
        same = torch.from_numpy(kinds[:, None] == kinds[None, :]).to(device)
        position = {int(row): number for number, row in enumerate(batch)}
        own = [texts[position[int(row)]] for row in rows]
        tokens = {name: ids.to(device) for name, ids in self.pair.tokens(own).items()}
        loss = module(values, tokens, same)
        return loss * processes, {
            "loss": float(loss.detach()),
            "scale": float(self.pair.scale.detach()),
        }

    def validate(self) -> dict[str, float]:
        """Loss, retrieval among 16, and zero-shot accuracies on the validation photos."""
        return self.encoder.measure(self.pair, quick=True)

    def _readable_batch(self, rows: Indices, device: torch.device) -> Indices:
        """The rows of all processes whose photos could be read, process by process."""
        counts = gather_counts(len(rows), self.processes, device)
        own = torch.from_numpy(rows).to(device)
        return gather_rows(own, counts, self.process).cpu().numpy()
