"""A coordinate head that looks photos up: a bank of training embeddings votes on the place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from geoclip_core.earth.sphere import GEOSCORE_SCALE_KM, pairwise_km
from geoclip_core.model.coordinate_head import CoordinateHead
from geoclip_core.model.kernel_ridge import cosine_kernel, fit_kernel_ridge
from geoclip_core.model.posterior import Posterior

Vote = Literal["cosine", "kernel-ridge"]
MAX_RIDGE_BANK = 5000
"""Kernel ridge keeps two n × n matrices: 400 MB at this size. Larger banks vote by cosine."""
_CHUNK = 4096


@dataclass(frozen=True)
class RetrievalOutput:
    """What the bank says of b photos."""

    similarity: Tensor
    """(b, n) weighted mean of the blocks' cosines to each photo of the bank."""
    votes: Tensor
    """(b, n) the similarity itself, or the fitted score of answering with each photo's place."""
    agreement: Tensor | None = None
    """(b, n) what agreeing contexts add to the votes, in the same units."""


class RetrievalHead(CoordinateHead):
    """Bank of n training photos.

    vote="cosine": softmax of the similarity / temperature, over the nearest `neighbours`.
    vote="kernel-ridge": regression onto the score field. The target of a training photo at each
    place of the bank is the sum over `field_scales` of exp(−d / scale): with 1492.7 km the
    GeoScore that it would earn there, with a wider one also a hint of the part of the world. The
    fitted field, divided by the temperature, gives the weights; the answer is the place of the
    highest expected GeoScore under the field sharpened to `readout_temperature`.

    With `agreement` above zero, a place of the bank also gains weight by how much the photo's
    context (the last block of the joined vector) agrees with the context that is known there. The
    answer stays that of the votes.

    Args:
        block_widths: widths of the blocks of a joined vector. Each is normalised by itself.
        bank_size: photos in the bank; `fit` fills it.
        vote: see above.
        block_weights: relative weight of each block in the similarity; None: all the same.
        gamma: the ridge's kernel is exp(γ (similarity − 1)).
        ridge: the ridge.
        field_scales: km in which the targets of kernel ridge fall off.
        temperature: divides the votes before the softmax.
        readout_temperature: the same for the answer of kernel ridge.
        agreement: weight of the agreement of contexts beside the votes; 0: it is left out.
        neighbours: photos that take part in a cosine vote.
        bandwidth_km: kernel width of the uncalibrated posterior.
    """

    kind: ClassVar[str] = "retrieval"
    bank: Tensor
    coordinates: Tensor

    def __init__(
        self,
        block_widths: Sequence[int],
        bank_size: int = 0,
        vote: Vote = "cosine",
        block_weights: Sequence[float] | None = None,
        gamma: float = 1.0,
        ridge: float = 0.1,
        field_scales: Sequence[float] = (GEOSCORE_SCALE_KM,),
        temperature: float = 0.05,
        readout_temperature: float = 0.02,
        agreement: float = 0.0,
        neighbours: int = 1024,
        bandwidth_km: float = 300.0,
    ) -> None:
        super().__init__(block_widths)
        if vote not in ("cosine", "kernel-ridge"):
            raise ValueError(f'vote must be "cosine" or "kernel-ridge", not {vote!r}')
        if vote == "kernel-ridge" and bank_size > MAX_RIDGE_BANK:
            raise ValueError(
                f"kernel ridge is for banks of up to {MAX_RIDGE_BANK} photos, not {bank_size}: "
                'use vote="cosine"'
            )
        weights = [1.0] * len(self.block_widths) if block_weights is None else list(block_weights)
        if len(weights) != len(self.block_widths) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"need {len(self.block_widths)} block weights, none negative")
        if not field_scales or min(field_scales) <= 0:
            raise ValueError("field_scales needs at least one number of km above zero")
        if min(gamma, ridge, temperature, readout_temperature, bandwidth_km) <= 0 or neighbours < 1:
            raise ValueError("gamma, ridge, temperatures, bandwidth, neighbours must be positive")
        self._options: dict[str, Any] = {
            "bank_size": int(bank_size),
            "vote": vote,
            "block_weights": None if block_weights is None else [float(w) for w in weights],
            "gamma": float(gamma),
            "ridge": float(ridge),
            "field_scales": [float(scale) for scale in field_scales],
            "temperature": float(temperature),
            "readout_temperature": float(readout_temperature),
            "agreement": float(agreement),
            "neighbours": int(neighbours),
            "bandwidth_km": float(bandwidth_km),
        }
        self.vote, self.temperature = vote, temperature
        self.field_scales = tuple(float(scale) for scale in field_scales)
        self.neighbours, self.bandwidth_km = neighbours, bandwidth_km
        self.agreement = float(agreement)
        shares = torch.tensor(weights, dtype=torch.float64)
        self.shares: tuple[float, ...] = tuple((shares / shares.sum()).tolist())
        self.register_buffer("bank", torch.zeros(bank_size, self.input_width, dtype=torch.float16))
        self.register_buffer("coordinates", torch.zeros(bank_size, 2))
        if self.agreement:
            width = self.block_widths[-1]
            self.register_buffer("known_context", torch.zeros(bank_size, width))
            self.register_buffer("known_offset", torch.zeros(bank_size))
        # worked out from the bank when first needed, so never saved
        self.register_buffer("_coefficients", None, persistent=False)
        self.register_buffer("_means", None, persistent=False)

        self.configure(gamma, ridge, readout_temperature)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same head again."""
        return dict(self._options)

    def configure(self, gamma: float, ridge: float, readout_temperature: float) -> None:
        """Change what kernel ridge makes of the same bank."""
        self.gamma, self.ridge = float(gamma), float(ridge)
        self.readout_temperature = float(readout_temperature)
        self._options |= {
            "gamma": self.gamma,
            "ridge": self.ridge,
            "readout_temperature": self.readout_temperature,
        }
        self._coefficients = self._means = None

    @torch.no_grad()
    def fit(self, joined: Tensor, coordinates: Tensor | np.ndarray) -> "RetrievalHead":
        """Fill the bank with joined vectors (bank_size, W) and their places (bank_size, 2)."""
        places = torch.tensor(np.asarray(coordinates, dtype=np.float32))
        if joined.shape != self.bank.shape or places.shape != self.coordinates.shape:
            raise ValueError(
                f"the bank holds {tuple(self.bank.shape)}, got {tuple(joined.shape)} "
                f"with places {tuple(places.shape)}"
            )
        self.bank.copy_(self._directions(joined))
        self.coordinates.copy_(places)
        self._coefficients = self._means = None
        return self

    @torch.no_grad()
    def know_context(self, axes: Tensor, offsets: Tensor) -> None:
        """Take what is known of the bank's context: agreement = context block · axes + offset.

        Args:
            axes: (bank_size, width of the last block).
            offsets: (bank_size,).
        """
        self.get_buffer("known_context").copy_(axes)
        self.get_buffer("known_offset").copy_(offsets)

    def _agreement(self, joined: Tensor) -> Tensor | None:
        if not self.agreement:
            return None
        context = joined[:, -self.block_widths[-1] :]
        agreed = context @ self.get_buffer("known_context").T + self.get_buffer("known_offset")
        return self.agreement * agreed

    def _directions(self, joined: Tensor) -> Tensor:
        """Blocks of length √share: a dot product is then the weighted mean of the cosines."""
        blocks = []
        for block, share in zip(joined.split(self.block_widths, dim=1), self.shares, strict=True):
            norm = block.norm(dim=1, keepdim=True).clamp_min(1e-6)
            blocks.append(block * (share**0.5 / norm))
        return torch.cat(blocks, dim=1)

    def similarity(self, joined: Tensor) -> Tensor:
        """(b, W) -> (b, n) weighted mean of the blocks' cosines."""
        return _products(self._directions(joined), self.bank)

    def embedding_similarity(self, normalised: Tensor) -> Tensor:
        """The same for the blocks of the embedding alone: (b, D) with D ≤ W -> (b, n)."""
        width, count = 0, 0
        while width < normalised.shape[1]:
            width, count = width + self.block_widths[count], count + 1
        rest = normalised.new_zeros(len(normalised), self.input_width - width)
        directions = self._directions(torch.cat([normalised, rest], dim=1))[:, :width]
        return _products(directions, self.bank[:, :width]) / sum(self.shares[:count])

    def forward(self, joined: Tensor) -> RetrievalOutput:
        """(b, W) -> similarity and votes."""
        if not len(self.bank):
            raise ValueError("the bank is empty: fit it before asking it")
        similarity = self.similarity(joined)
        if self.vote == "cosine":
            return RetrievalOutput(similarity, similarity, self._agreement(joined))
        if self._coefficients is None:
            self._fit_field()
        kernel = cosine_kernel(similarity.double(), self.gamma)
        votes = kernel @ self._coefficients + self._means
        return RetrievalOutput(similarity, votes, self._agreement(joined))

    def bank_similarity(self, width: int | None = None) -> Tensor:
        """(n, n) among the bank's photos; with a width, by the first blocks of that width."""
        bank = self.bank if width is None else self.bank[:, :width]
        among = _products(bank.float(), bank)
        among = (among + among.T) / 2
        lengths = among.diagonal().clamp_min(1e-12).sqrt()
        return among / lengths[:, None] / lengths[None, :]

    def _fit_field(self) -> None:
        kernel = cosine_kernel(self.bank_similarity().double().cpu(), self.gamma)
        coefficients, means = fit_kernel_ridge(kernel, self.target_field(), self.ridge)
        self._coefficients = coefficients.to(self.bank.device)
        self._means = means.to(self.bank.device)

    def target_field(self) -> Tensor:
        """(n, n) float64: what kernel ridge is fitted to, between the places of the bank."""
        distances = self._distances()
        return sum(torch.exp(-distances / scale) for scale in self.field_scales)

    def score_field(self) -> Tensor:
        """(n, n) float64: share of the full GeoScore between the places of the bank."""
        return torch.exp(-self._distances() / GEOSCORE_SCALE_KM)

    def _distances(self) -> Tensor:
        places = self.coordinates.double().cpu().numpy()
        return torch.from_numpy(pairwise_km(places, places))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._coefficients = self._means = None

    def loss(self, output: RetrievalOutput, coordinates: Tensor) -> Tensor:
        """Not defined: a bank is filled, not descended.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a retrieval head has no loss: fill its bank with geoclip_core.loops.fit_bank"
        )

    @torch.no_grad()
    def raw_posteriors(self, output: RetrievalOutput) -> list[Posterior]:
        """One uncalibrated posterior a photo, over places of the bank."""
        places = self.coordinates.double().cpu().numpy()
        votes = output.votes.double().cpu()
        weights = votes if output.agreement is None else votes + output.agreement.double().cpu()
        if self.vote == "cosine":
            top = weights.topk(min(self.neighbours, weights.shape[1]), dim=1)
            return [
                Posterior(places[index], values / self.temperature, self.bandwidth_km)
                for values, index in zip(top.values.numpy(), top.indices.numpy(), strict=True)
            ]
        scores = (votes / self.readout_temperature).softmax(dim=1) @ self.score_field()
        return [
            Posterior(places, row, self.bandwidth_km, scores=score)
            for row, score in zip((weights / self.temperature).numpy(), scores.numpy(), strict=True)
        ]

    @torch.no_grad()
    def neighbours_of(self, joined: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """Indices and similarities (b, k) of the photos of the bank that look most alike."""
        top = self.similarity(joined).topk(min(k, len(self.bank)), dim=1)
        return top.indices, top.values


def _products(directions: Tensor, bank: Tensor) -> Tensor:
    """(b, W) float32 times (n, W) float16 transposed; the bank is widened piece by piece."""
    parts = [directions @ rows.to(directions.dtype).T for rows in bank.split(_CHUNK)]
    return torch.cat(parts, dim=1)
