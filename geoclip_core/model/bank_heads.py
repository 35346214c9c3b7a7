"""Context heads in closed form, for banks of hundreds of photos.

Kernel ridge regression onto one-hot labels, with the same bank and kernel as the retrieval head.
Gradient descent has too few photos there; the closed form also gives every training photo the
logits it would get had it been left out, so that what joins the bank is honest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.earth.sphere import GEOSCORE_SCALE_KM, pairwise_km
from geoclip_core.model.coordinate_heads import CoordinateHead
from geoclip_core.model.posterior import Posterior


def cosine_kernel(cosines: Tensor, gamma: float) -> Tensor:
    """exp(γ (cos − 1)): 1 for equal directions, positive definite on the sphere."""
    return torch.exp(gamma * (cosines - 1))


def fit_kernel_ridge(kernel: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Coefficients (n, m) and means (m,) of ridge regression on centred targets.

    Args:
        kernel: (n, n) among the training rows.
        targets: (n, m).
        ridge: added to the diagonal.

    Returns:
        A prediction is `kernel(query, rows) @ coefficients + means`, in float64.
    """
    mean, centred = _centre(targets)
    factor = _factor(kernel, ridge)
    return torch.cholesky_solve(centred, factor), mean


def leave_one_out(kernel: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """(n, m): what each training row would be predicted, had it not been in the training set."""
    _, centred = _centre(targets)
    inverse = torch.cholesky_inverse(_factor(kernel, ridge))
    return targets.double() - (inverse @ centred) / inverse.diagonal()[:, None]


def _centre(targets: Tensor) -> tuple[Tensor, Tensor]:
    values = targets.double()
    mean = values.mean(0)
    return mean, values - mean


def _factor(kernel: Tensor, ridge: float) -> Tensor:
    if ridge <= 0:
        raise ValueError(f"ridge must be above zero, not {ridge}")
    values = kernel.double()
    return torch.linalg.cholesky(values + ridge * torch.eye(len(values), dtype=torch.float64))


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


class RetrievalHead(CoordinateHead[RetrievalOutput]):
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
            "a retrieval head has no loss: fill its bank with geoclip_core.training.fit_bank"
        )

    def answers(self, output: RetrievalOutput) -> Tensor:
        """Return the modes (b, 2) of the posteriors, in degrees."""
        return torch.tensor([posterior.mode() for posterior in self.raw_posteriors(output)])

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


_FIELD = "score_field"


class KernelContextHeads(nn.Module):
    """One kernel ridge classifier a feature, over the embeddings in a retrieval head's bank.

    To the shares that are fitted to the labels, `vote_weight` adds the shares of the labels among
    the photos of the bank, weighted by the softmax of a score field that is fitted in the same
    way: a photo that looks like Chile and Peru may be in Argentina, where few photos are.

    Args:
        embedding_width: width D of the normalised embedding.
        vocabularies: the classes of each feature, in the order of the output.
        bank_size: photos in the bank.
        gamma: the kernel is exp(γ (similarity − 1)).
        ridge: the ridge.
        vote_weight: see above; 0 leaves the vote out.
        vote_temperature: divides the score field before its softmax.
        sharpness: feature -> factor that turns fitted shares into logits.
    """

    def __init__(
        self,
        embedding_width: int,
        vocabularies: Mapping[str, Vocabulary],
        bank_size: int = 0,
        gamma: float = 1.0,
        ridge: float = 0.1,
        vote_weight: float = 0.3,
        vote_temperature: float = 0.1,
        sharpness: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.embedding_width = int(embedding_width)
        self.vocabularies = dict(vocabularies)
        if vote_weight < 0 or vote_temperature <= 0:
            raise ValueError("vote_weight must not be negative, vote_temperature above zero")
        self.vote_weight, self.vote_temperature = float(vote_weight), float(vote_temperature)
        self.bank_size = int(bank_size)
        for feature in self.vocabularies:
            empty = torch.full((self.bank_size,), IGNORE_INDEX, dtype=torch.int16)
            self.register_buffer(f"labels_{feature}", empty)
        # worked out from bank and labels when first needed, so never saved
        for target in (*self.vocabularies, _FIELD):
            self.register_buffer(f"_coefficients_{target}", None, persistent=False)
            self.register_buffer(f"_means_{target}", None, persistent=False)
        self._bank: tuple[RetrievalHead, ...] = ()
        self.configure(gamma, ridge, sharpness or {})

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same heads again."""
        return {
            "bank_size": self.bank_size,
            "gamma": self.gamma,
            "ridge": self.ridge,
            "vote_weight": self.vote_weight,
            "vote_temperature": self.vote_temperature,
            "sharpness": dict(self.sharpness),
        }

    def configure(self, gamma: float, ridge: float, sharpness: Mapping[str, float]) -> None:
        """Change what is made of the same bank and labels."""
        if min(gamma, ridge, *sharpness.values(), 1.0) <= 0:
            raise ValueError("gamma, ridge and sharpness must be above zero")
        self.gamma, self.ridge = float(gamma), float(ridge)
        self.sharpness = {f: float(sharpness.get(f, 10.0)) for f in self.vocabularies}
        self._forget()

    def attach(self, head: nn.Module) -> None:
        """Read the embeddings in this head's bank.

        Raises:
            ValueError: if it is no retrieval head, or its bank has another size.
        """
        if not isinstance(head, RetrievalHead) or len(head.bank) != self.bank_size:
            raise ValueError(
                f"closed-form context heads need a retrieval head of {self.bank_size} photos"
            )
        self._bank = (head,)  # in a tuple, so that the head is not registered (and saved) twice

    @torch.no_grad()
    def fit(self, labels: Mapping[str, np.ndarray]) -> "KernelContextHeads":
        """Take the labels (n,) of the bank's photos; −100 leaves a photo out of that feature."""
        for feature, vocabulary in self.vocabularies.items():
            values = torch.as_tensor(np.asarray(labels[feature]))
            if values.shape != (self.bank_size,) or int(values.max()) >= len(vocabulary):
                raise ValueError(f"labels of {feature!r} do not fit the bank and its vocabulary")
            if not (values >= 0).any():
                raise ValueError(f"no photo has a known {feature}: leave the feature out")
            self.get_buffer(f"labels_{feature}").copy_(values)
        self._forget()
        return self

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """(b, D) normalised embedding -> {feature: logits (b, C)}."""
        head = self._attached()
        kernel = cosine_kernel(head.embedding_similarity(embedding).double(), self.gamma)
        votes = None
        if self.vote_weight:
            votes = (self._regress(kernel, _FIELD) / self.vote_temperature).softmax(dim=1)
        logits = {}
        for feature in self.vocabularies:
            shares = self._regress(kernel, feature)
            if votes is not None:
                shares = shares + self.vote_weight * self._voted(votes, feature)
            logits[feature] = (self.sharpness[feature] * shares).to(embedding.dtype)
        return logits

    @torch.no_grad()
    def left_out_logits(self) -> dict[str, Tensor]:
        """{feature: logits (n, C)} that each photo of the bank would get had it been left out."""
        kernel, votes = self._kernel(), None
        if self.vote_weight:
            field = leave_one_out(kernel, self._attached().target_field(), self.ridge)
            # a photo that was left out cannot be voted for
            field.fill_diagonal_(-torch.inf)
            votes = (field / self.vote_temperature).softmax(dim=1)
        logits = {}
        for feature in self.vocabularies:
            known, targets = self._targets(feature)
            coefficients, means = fit_kernel_ridge(kernel[known][:, known], targets, self.ridge)
            shares = kernel[:, known] @ coefficients + means
            shares[known] = leave_one_out(kernel[known][:, known], targets, self.ridge)
            if votes is not None:
                shares = shares + self.vote_weight * self._voted(votes.to(kernel.device), feature)
            logits[feature] = (self.sharpness[feature] * shares).float()
        return logits

    def _regress(self, kernel: Tensor, target: str) -> Tensor:
        if self.get_buffer(f"_coefficients_{target}") is None:
            self._solve(target)
        means = self.get_buffer(f"_means_{target}")
        return kernel @ self.get_buffer(f"_coefficients_{target}") + means

    def _voted(self, votes: Tensor, feature: str) -> Tensor:
        """(b, n) votes -> (b, C) votes for the labels of those who have one."""
        known, targets = self._targets(feature)
        return votes[:, known.to(votes.device)] @ targets.to(votes.device)

    def _solve(self, target: str) -> None:
        kernel, device = self._kernel(), self._attached().bank.device
        if target == _FIELD:
            field = self._attached().target_field()
            known, values = torch.ones(self.bank_size, dtype=torch.bool), field
        else:
            known, values = self._targets(target)
        coefficients, means = fit_kernel_ridge(kernel[known][:, known], values, self.ridge)
        full = torch.zeros(self.bank_size, values.shape[1], dtype=torch.float64, device=device)
        full[known.to(device)] = coefficients.to(device)
        setattr(self, f"_coefficients_{target}", full)
        setattr(self, f"_means_{target}", means.to(device))

    def _kernel(self) -> Tensor:
        among = self._attached().bank_similarity(self.embedding_width).double().cpu()
        return cosine_kernel(among, self.gamma)

    def _targets(self, feature: str) -> tuple[Tensor, Tensor]:
        """Mask (n,) of the photos with a label, and their one-hot labels (known, C)."""
        labels = self.get_buffer(f"labels_{feature}").long().cpu()
        known = labels >= 0
        classes = len(self.vocabularies[feature])
        return known, nn.functional.one_hot(labels[known], classes).double()

    def _attached(self) -> RetrievalHead:
        if not self._bank:
            raise ValueError("the context heads are not attached to a bank")
        return self._bank[0]

    def _forget(self) -> None:
        for target in (*self.vocabularies, _FIELD):
            setattr(self, f"_coefficients_{target}", None)
            setattr(self, f"_means_{target}", None)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()


class KernelContextJoin(nn.Module):
    """Context probabilities as a few numbers beside the embedding.

    Square roots of the probabilities (their dot product is the Bhattacharyya coefficient of two
    photos' contexts), projected onto the principal axes of the bank's left-out predictions.
    """

    def __init__(self, vocabularies: Mapping[str, Vocabulary], width: int = 16) -> None:
        super().__init__()
        self.vocabularies = dict(vocabularies)
        self.width = int(width)
        self.output_width = self.width * len(self.vocabularies)
        for feature, vocabulary in self.vocabularies.items():
            self.register_buffer(f"mean_{feature}", torch.zeros(len(vocabulary)))
            self.register_buffer(f"axes_{feature}", torch.zeros(len(vocabulary), self.width))

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same join again."""
        return {"width": self.width}

    @torch.no_grad()
    def fit(self, logits: Mapping[str, Tensor]) -> "KernelContextJoin":
        """Take the principal axes of the bank's left-out logits {feature: (n, C)}."""
        for feature in self.vocabularies:
            roots = logits[feature].double().softmax(dim=1).sqrt()
            mean = roots.mean(0)
            _, _, axes = torch.linalg.svd(roots - mean, full_matrices=False)
            kept = axes[: self.width]
            # an axis has no sign of its own: fix it, so that the same data give the same weights
            signs = kept.gather(1, kept.abs().argmax(dim=1, keepdim=True)).sign()
            self.get_buffer(f"mean_{feature}").copy_(mean)
            self.get_buffer(f"axes_{feature}").zero_()[:, : len(kept)].copy_((kept * signs).T)
        return self

    @torch.no_grad()
    def known(self, labels: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
        """Axes (n, width × F) and offsets (n,) of photos whose labels {feature: (n,)} are known.

        A joined context times the axes plus the offset is the mean over features of the square
        root of the probability that it gives to the photo's label, up to the axes that the
        projection dropped. A photo without a label gets the mean of the others.
        """
        axes, offsets = [], []
        for feature in self.vocabularies:
            values = torch.as_tensor(np.asarray(labels[feature])).long()
            labelled = values >= 0
            rows = self.get_buffer(f"axes_{feature}")[values.clamp_min(0)]
            means = self.get_buffer(f"mean_{feature}")[values.clamp_min(0)]
            rows[~labelled] = rows[labelled].mean(0)
            means[~labelled] = means[labelled].mean()
            axes.append(rows / len(self.vocabularies))
            offsets.append(means / len(self.vocabularies))
        return torch.cat(axes, dim=1), torch.stack(offsets).sum(0)

    def forward(self, logits: Mapping[str, Tensor]) -> Tensor:
        """{feature: logits (b, C)} -> (b, width × F)."""
        parts = []
        for feature in self.vocabularies:
            roots = logits[feature].softmax(dim=1).sqrt()
            axes = self.get_buffer(f"axes_{feature}")
            parts.append((roots - self.get_buffer(f"mean_{feature}")) @ axes)
        return torch.cat(parts, dim=1)
