"""Putting the blocks of an embedding on one scale, with the statistics of the training photos."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EmbeddingNormaliser(nn.Module):
    """Standardise each dimension, then give each block of the embedding the same length.

    A block (one depth of one view) comes out with length √width, so that its entries are about 1
    in size and blocks of different width weigh the same in a cosine. Statistics are buffers:
    they are saved with the heads. Before `fit` they are 0 and 1.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, block_widths: Sequence[int]) -> None:
        super().__init__()
        self.block_widths = tuple(int(width) for width in block_widths)
        if not self.block_widths or min(self.block_widths) < 1:
            raise ValueError(f"block widths must be positive, not {self.block_widths}")
        self.width = sum(self.block_widths)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("scale", torch.ones(self.width))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> "EmbeddingNormaliser":
        """Take mean and standard deviation from training embeddings (n, D)."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width or not len(embeddings):
            raise ValueError(f"expected embeddings (n, {self.width}), got {embeddings.shape}")
        values = embeddings.double()
        self.mean.copy_(values.mean(0).float())
        deviation = values.std(0, correction=0)
        # a feature that never fires must not blow up the first time it does
        floor = 1e-3 * deviation.mean().clamp_min(1e-12)
        self.scale.copy_(deviation.clamp_min(floor).float())
        return self

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, D) raw embedding -> (b, D) standardised, each block of length √width."""
        values = (embedding.to(self.mean.dtype) - self.mean) / self.scale
        blocks = []
        for block in values.split(self.block_widths, dim=1):
            norm = block.norm(dim=1, keepdim=True).clamp_min(1e-6)
            blocks.append(block * (block.shape[1] ** 0.5 / norm))
        return torch.cat(blocks, dim=1)
