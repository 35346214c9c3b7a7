"""Heads fitted in closed form to a bank of reference photos with their embeddings.

They suit banks of hundreds of photos, which are too few for gradient descent. The closed form also
gives each photo of the bank the logits of a fit without it, so that the context of the bank's
photos is estimated like that of a new photo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval, Len
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.checks import NotNegative
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.earth.sphere import GEOSCORE_SCALE_KM, pairwise_km
from geoclip_core.model.context_heads import JoinWidth
from geoclip_core.model.coordinate_heads import CoordinateHead, check_places
from geoclip_core.model.posterior import HALF_CIRCUMFERENCE_KM, Posterior

Vote = Literal["cosine", "kernel-ridge"]
Labels = Mapping[str, NDArray[np.int64]]
"""Feature -> class indices (n,), −100 where unknown."""
MAX_RIDGE_BANK = 5000
"""Kernel ridge keeps two n × n matrices: 400 MB at this size. Larger banks vote by cosine."""
MAX_ONE_HOT = 25_000_000
"""Photos × classes of a feature whose labels kernel ridge can be fitted to: 200 MB in float64."""
BankSize = Annotated[int, Interval(ge=0, le=10_000_000)]
Gamma = Annotated[float, Interval(gt=0, le=1e4)]
Ridge = Annotated[float, Interval(gt=0, le=1e6)]
Temperature = Annotated[float, Interval(ge=1e-6, le=1e6)]
FieldScale = Annotated[float, Interval(ge=1e-3, le=1e9)]
_CHUNK = 4096  # rows of the bank that are converted to float32 at once
_FIELD = "score_field"  # key of the solution for the score field, beside those of the features


def cosine_kernel(cosines: Tensor, gamma: float) -> Tensor:
    """Return exp(γ (cos − 1)) of cosines (...): positive definite, 1 for equal directions."""
    return torch.exp(gamma * (cosines - 1))


def fit_kernel_ridge(kernel: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Solve ridge regression of centred targets (n, m) on a kernel (n, n), in float64.

    Returns coefficients (n, m) and means (m,); the prediction is
    `kernel(query, rows) @ coefficients + means`.

    Raises:
        ValueError: the ridge is not above zero.
    """
    mean, centred = _centre(targets)
    return torch.cholesky_solve(centred, _factor(kernel, ridge)), mean


def leave_one_out(kernel: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Predict (n, m) each row by a fit without it (Rasmussen & Williams 2006, eq. 5.12)."""
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
    factor: Tensor = torch.linalg.cholesky(
        values + ridge * torch.eye(len(values), dtype=torch.float64)
    )
    return factor


@dataclass(frozen=True)
class BankOutput:
    """Votes of the bank's n photos on b photos."""

    votes: Tensor
    """(b, n) similarity, or with kernel ridge the fitted score of answering with each place."""
    agreement: Tensor | None = None
    """(b, n) agreement of the contexts, to be added to the votes; None if it is not used."""


class BankHead(CoordinateHead[BankOutput]):
    """Head in which the n photos of a bank vote for their places.

    vote="cosine": softmax of the similarity / temperature, over the nearest `neighbours`.
    vote="kernel-ridge": regression onto the score field. The target of a training photo at each
    place of the bank is the sum over `field_scales` of exp(−d / scale): with 1492.7 km the GeoScore
    of answering with that place; wider scales add information about the region. The fitted field,
    divided by the temperature, gives the weights; the answer is the place with the highest expected
    GeoScore under the softmax of the field / `readout_temperature`.

    With `agreement` above zero, a place also gains weight by how well the photo's context (the last
    block of the joined vector) agrees with the known context of that place. With kernel ridge this
    does not change the answer.

    Args:
        block_widths: widths of the blocks of a joined vector. Each block is normalised separately.
        bank_size: number of photos in the bank; `fit` fills it.
        vote: see above.
        block_weights: relative weight of each block in the similarity; None: equal weights.
        gamma: the kernel is exp(γ (similarity − 1)).
        ridge: added to the diagonal of the kernel.
        field_scales: decay lengths in km of the targets of kernel ridge.
        temperature: divides the votes before the softmax.
        readout_temperature: the same for the answer of kernel ridge.
        agreement: weight of the agreement of contexts relative to the votes; 0 disables it.
        neighbours: number of photos that take part in a cosine vote.
        bandwidth_km: kernel width of the uncalibrated posterior.

    Raises:
        ValueError: an option is out of range, or the bank is too large for kernel ridge.
    """

    bank: Tensor
    coordinates: Tensor

    def __init__(
        self,
        block_widths: Sequence[int],
        bank_size: BankSize = 0,
        vote: Vote = "cosine",
        block_weights: Sequence[NotNegative] | None = None,
        gamma: Gamma = 1.0,
        ridge: Ridge = 0.1,
        field_scales: Annotated[Sequence[FieldScale], Len(1, 16)] = (GEOSCORE_SCALE_KM,),
        temperature: Temperature = 0.05,
        readout_temperature: Temperature = 0.02,
        agreement: Annotated[float, Interval(ge=-1e3, le=1e3)] = 0.0,
        neighbours: Annotated[int, Interval(ge=1, le=2**17)] = 1024,
        bandwidth_km: Annotated[float, Interval(ge=1e-3, le=HALF_CIRCUMFERENCE_KM)] = 300.0,
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
        self.block_weights = None if block_weights is None else [float(w) for w in weights]
        self.vote, self.temperature = vote, float(temperature)
        self.field_scales = tuple(float(scale) for scale in field_scales)
        self.neighbours, self.bandwidth_km = int(neighbours), float(bandwidth_km)
        self.agreement = float(agreement)
        # on the CPU even while the model is built on the meta device
        shares = torch.tensor(weights, dtype=torch.float64, device="cpu")
        self.shares: tuple[float, ...] = tuple((shares / shares.sum()).tolist())
        self.register_buffer("bank", torch.zeros(bank_size, self.input_width, dtype=torch.float16))
        self.register_buffer("coordinates", torch.zeros(bank_size, 2))
        if self.agreement:
            width = self.block_widths[-1]
            self.register_buffer("known_context", torch.zeros(bank_size, width))
            self.register_buffer("known_offset", torch.zeros(bank_size))
        self.configure(gamma, ridge, readout_temperature)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same head again."""
        return {
            "bank_size": len(self.bank),
            "vote": self.vote,
            "block_weights": self.block_weights,
            "gamma": self.gamma,
            "ridge": self.ridge,
            "field_scales": list(self.field_scales),
            "temperature": self.temperature,
            "readout_temperature": self.readout_temperature,
            "agreement": self.agreement,
            "neighbours": self.neighbours,
            "bandwidth_km": self.bandwidth_km,
        }

    def check_weights(self) -> None:
        """Check that the loaded bank holds places, and directions of the right length.

        Raises:
            ValueError: naming the weights that are wrong.
        """
        check_places(self.coordinates, "coordinates")
        lengths = torch.linalg.vector_norm(self.bank, dim=1, dtype=torch.float32)
        if len(self.bank) and not float(lengths.max()) < 2:
            raise ValueError("the rows of bank must have length 1")

    def configure(self, gamma: float, ridge: float, readout_temperature: float) -> None:
        """Set the options of kernel ridge; the bank stays the same."""
        self.gamma, self.ridge = float(gamma), float(ridge)
        self.readout_temperature = float(readout_temperature)
        # coefficients and means, solved at the first vote and not saved
        self._solution: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def fit(self, joined: Tensor, coordinates: NDArray[np.float64]) -> "BankHead":
        """Fill the bank with joined vectors (bank_size, W) and coordinates (bank_size, 2), degrees.

        Raises:
            ValueError: their number or width differs from the bank's.
        """
        places = torch.tensor(np.asarray(coordinates, dtype=np.float32))
        if joined.shape != self.bank.shape or places.shape != self.coordinates.shape:
            raise ValueError(
                f"the bank has shape {tuple(self.bank.shape)}, got vectors {tuple(joined.shape)} "
                f"and places {tuple(places.shape)}"
            )
        self.bank.copy_(self._directions(joined))
        self.coordinates.copy_(places)
        self._solution = None
        return self

    @torch.no_grad()
    def set_known_context(self, axes: Tensor, offsets: Tensor) -> None:
        """Set the known context of the bank, so that agreement = context block · axes + offset.

        Takes axes (bank_size, width of the last block) and offsets (bank_size,).
        """
        self.get_buffer("known_context").copy_(axes)
        self.get_buffer("known_offset").copy_(offsets)

    def _directions(self, joined: Tensor) -> Tensor:
        """Scale blocks to length √share, so that a dot product is the weighted mean of cosines."""
        blocks, start = [], 0
        for width, share in zip(self.block_widths, self.shares, strict=True):
            block = joined[:, start : start + width]
            norm = block.norm(dim=1, keepdim=True).clamp_min(1e-6)
            blocks.append(block * (share**0.5 / norm))
            start += width
        return torch.cat(blocks, dim=1)

    def similarity(self, joined: Tensor) -> Tensor:
        """Return the weighted mean (b, n) of the blocks' cosines with the bank, for (b, W)."""
        return _products(self._directions(joined), self.bank)

    def embedding_similarity(self, normalised: Tensor) -> Tensor:
        """Return the similarity (b, n) of vectors (b, D) by the first blocks, of total width D."""
        directions, width, count = self.embedding_directions(normalised), 0, 0
        while width < normalised.shape[1]:
            width, count = width + self.block_widths[count], count + 1
        return _products(directions, self.bank[:, :width]) / sum(self.shares[:count])

    def embedding_directions(self, normalised: Tensor) -> Tensor:
        """Return vectors (b, D) scaled like the first D columns of the bank."""
        width = normalised.shape[1]
        rest = normalised.new_zeros(len(normalised), self.input_width - width)
        return self._directions(torch.cat([normalised, rest], dim=1))[:, :width]

    def bank_similarity(self, width: int | None = None) -> Tensor:
        """Return the cosines (n, n) among the bank's photos, by the first `width` columns."""
        bank = self.bank[:, :width]
        among = _products(bank.float(), bank)
        among = (among + among.T) / 2
        lengths = among.diagonal().clamp_min(1e-12).sqrt()
        return among / lengths[:, None] / lengths[None, :]

    def target_field(self) -> Tensor:
        """Return the targets (n, n) float64 of kernel ridge."""
        distances = self._distances()
        return torch.stack([torch.exp(-distances / scale) for scale in self.field_scales]).sum(0)

    def score_field(self) -> Tensor:
        """Return the share (n, n) float64 of the full GeoScore between the places of the bank."""
        return torch.exp(-self._distances() / GEOSCORE_SCALE_KM)

    def _distances(self) -> Tensor:
        places = self.coordinates.double().cpu().numpy()
        return torch.from_numpy(pairwise_km(places, places))

    def _solved_field(self) -> tuple[Tensor, Tensor]:
        if self._solution is None:
            kernel = cosine_kernel(self.bank_similarity().double().cpu(), self.gamma)
            self._solution = fit_kernel_ridge(kernel, self.target_field(), self.ridge)
        return self._solution

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._solution = None

    def forward(self, joined: Tensor) -> BankOutput:
        """Compute the bank's votes on joined vectors (b, W).

        Raises:
            ValueError: the bank is empty.
        """
        if not len(self.bank):
            raise ValueError("the bank is empty: call fit first")
        similarity = self.similarity(joined)
        if self.vote == "cosine":
            return BankOutput(similarity, self._agreement(joined))
        coefficients, means = (part.to(similarity.device) for part in self._solved_field())
        votes = cosine_kernel(similarity.double(), self.gamma) @ coefficients + means
        return BankOutput(votes, self._agreement(joined))

    def _agreement(self, joined: Tensor) -> Tensor | None:
        if not self.agreement:
            return None
        context = joined[:, -self.block_widths[-1] :]
        agreed = context @ self.get_buffer("known_context").T + self.get_buffer("known_offset")
        # a neutral context agrees with nothing
        said = (context != 0).any(dim=1, keepdim=True)
        return self.agreement * agreed * said

    def loss(self, output: BankOutput, coordinates: Tensor) -> Tensor:
        """Raise a TypeError: a bank is filled, not trained by gradient descent."""
        raise TypeError(
            "a bank head has no loss: fill its bank with geoclip_core.training.fit_bank"
        )

    def answers(self, output: BankOutput) -> Tensor:
        """Return the modes (b, 2) of the posteriors, in degrees."""
        return torch.tensor([posterior.mode() for posterior in self.raw_posteriors(output)])

    @torch.no_grad()
    def raw_posteriors(self, output: BankOutput) -> list[Posterior]:
        """Return one uncalibrated posterior per photo, over places of the bank."""
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
            Posterior(places, row, self.bandwidth_km, scores=score, fixed=True)
            for row, score in zip((weights / self.temperature).numpy(), scores.numpy(), strict=True)
        ]


def _products(directions: Tensor, bank: Tensor) -> Tensor:
    """Multiply (b, W) with the transpose of (n, W) float16, converting the bank in parts."""
    parts = [
        directions @ bank[start : start + _CHUNK].to(directions.dtype).T
        for start in range(0, len(bank), _CHUNK)
    ]
    return torch.cat(parts, dim=1)


class KernelContextHeads(nn.Module):
    """One kernel ridge classifier per feature, over the embeddings in a bank.

    The logits are the shares fitted to the labels, plus `vote_weight` times the shares of the
    labels among the photos of the bank, weighted by the softmax of a score field that is fitted in
    the same way; the sum is multiplied by `sharpness`. The second part finds neighbouring classes:
    a photo that looks like Chile and Peru may be from Argentina, of which there are few photos.

    Args:
        embedding_width: width D of the normalised embedding.
        vocabularies: the classes of each feature, in the order of the output.
        bank_size: number of photos in the bank.
        gamma: the kernel is exp(γ (similarity − 1)).
        ridge: added to the diagonal of the kernel.
        vote_weight: see above; 0 disables the second part.
        vote_temperature: divides the score field before its softmax.
        sharpness: feature -> factor from fitted shares to logits, 10 for features left out.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        embedding_width: int,
        vocabularies: Mapping[str, Vocabulary],
        bank_size: Annotated[int, Interval(ge=0, le=MAX_RIDGE_BANK)] = 0,
        gamma: Gamma = 1.0,
        ridge: Ridge = 0.1,
        vote_weight: Annotated[float, Interval(ge=0, le=1e3)] = 0.3,
        vote_temperature: Temperature = 0.1,
        sharpness: Mapping[str, Annotated[float, Interval(gt=0, le=1e6)]] | None = None,
    ) -> None:
        super().__init__()
        self.embedding_width = int(embedding_width)
        self.vocabularies = dict(vocabularies)
        if vote_weight < 0 or vote_temperature <= 0:
            raise ValueError("vote_weight must be at least 0 and vote_temperature above 0")
        self.vote_weight, self.vote_temperature = float(vote_weight), float(vote_temperature)
        self.bank_size = int(bank_size)
        if large := [f for f, v in vocabularies.items() if bank_size * len(v) > MAX_ONE_HOT]:
            classes = len(vocabularies[large[0]])
            raise ValueError(
                f"kernel ridge for {classes} classes of {large[0]} over {bank_size} photos needs "
                "too much memory"
            )
        for feature in self.vocabularies:
            empty = torch.full((self.bank_size,), IGNORE_INDEX, dtype=torch.int16)
            self.register_buffer(f"labels_{feature}", empty)
        self._bank: tuple[BankHead, ...] = ()
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
        """Set the options of kernel ridge, all above zero; bank and labels stay the same."""
        if min(gamma, ridge, *sharpness.values(), 1.0) <= 0:
            raise ValueError("gamma, ridge and sharpness must be above zero")
        self.gamma, self.ridge = float(gamma), float(ridge)
        self.sharpness = {f: float(sharpness.get(f, 10.0)) for f in self.vocabularies}
        # coefficients and means by target, solved when first needed and not saved
        self._solutions: dict[str, tuple[Tensor, Tensor]] = {}

    def attach(self, head: nn.Module) -> None:
        """Use the embeddings in a head's bank.

        Raises:
            ValueError: the head is not a bank head, or its bank has another size.
        """
        if not isinstance(head, BankHead) or len(head.bank) != self.bank_size:
            raise ValueError(
                f"kernel-ridge context heads need a bank head of {self.bank_size} photos"
            )
        self._bank = (head,)  # in a tuple, so that the head is not registered (and saved) twice

    def check_weights(self) -> None:
        """Check that the loaded labels are classes of the vocabularies.

        Raises:
            ValueError: naming the feature whose labels are not.
        """
        for feature, vocabulary in self.vocabularies.items():
            labels = self.get_buffer(f"labels_{feature}")
            if not len(labels) or int(labels.max()) >= len(vocabulary) or not (labels >= 0).any():
                raise ValueError(f"labels_{feature} do not fit the {len(vocabulary)} classes")

    @torch.no_grad()
    def fit(self, labels: Labels) -> "KernelContextHeads":
        """Set the labels (n,) of the bank's photos; −100 leaves a photo out of that feature.

        Raises:
            ValueError: labels do not fit bank and vocabulary, or a feature has none.
        """
        for feature, vocabulary in self.vocabularies.items():
            values = torch.as_tensor(np.asarray(labels[feature]))
            if values.shape != (self.bank_size,) or int(values.max()) >= len(vocabulary):
                raise ValueError(f"labels of {feature!r} do not fit the bank and its vocabulary")
            if not (values >= 0).any():
                raise ValueError(f"no photo has a known {feature}: leave the feature out")
            self.get_buffer(f"labels_{feature}").copy_(values)
        self._solutions.clear()
        return self

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """Compute {feature: logits (b, C)} of normalised embeddings (b, D)."""
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
        """Return {feature: logits (n, C)} of each photo of the bank by a fit without it."""
        kernel, votes = self._kernel(), None
        if self.vote_weight:
            field = leave_one_out(kernel, self._attached().target_field(), self.ridge)
            # a photo that is left out gets no votes
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
        if target not in self._solutions:
            self._solutions[target] = self._solve(target)
        coefficients, means = (part.to(kernel.device) for part in self._solutions[target])
        return kernel @ coefficients + means

    def _solve(self, target: str) -> tuple[Tensor, Tensor]:
        kernel = self._kernel()
        if target == _FIELD:
            return fit_kernel_ridge(kernel, self._attached().target_field(), self.ridge)
        known, values = self._targets(target)
        coefficients, means = fit_kernel_ridge(kernel[known][:, known], values, self.ridge)
        full = torch.zeros(self.bank_size, values.shape[1], dtype=torch.float64)
        full[known] = coefficients
        return full, means

    def _voted(self, votes: Tensor, feature: str) -> Tensor:
        """Sum the votes (b, n) of photos with a label to votes for the labels (b, C)."""
        known, targets = self._targets(feature)
        return votes[:, known.to(votes.device)] @ targets.to(votes.device)

    def _kernel(self) -> Tensor:
        among = self._attached().bank_similarity(self.embedding_width).double().cpu()
        return cosine_kernel(among, self.gamma)

    def _targets(self, feature: str) -> tuple[Tensor, Tensor]:
        """Return the mask (n,) of the photos with a label, and their one-hot labels (known, C)."""
        labels = self.get_buffer(f"labels_{feature}").long().cpu()
        known = labels >= 0
        classes = len(self.vocabularies[feature])
        return known, nn.functional.one_hot(labels[known], classes).double()

    def _attached(self) -> BankHead:
        if not self._bank:
            raise ValueError("the context heads are not attached to a bank: call attach first")
        return self._bank[0]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._solutions.clear()


class KernelContextJoin(nn.Module):
    """Projects context probabilities to `width` numbers per feature for the bank head.

    Square roots of the probabilities (their dot product is the Bhattacharyya coefficient of two
    photos' contexts) are projected onto the principal axes of the bank's left-out predictions.
    """

    def __init__(self, vocabularies: Mapping[str, Vocabulary], width: JoinWidth = 16) -> None:
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
        """Set the axes to the principal axes of the bank's left-out logits {feature: (n, C)}."""
        for feature in self.vocabularies:
            roots = logits[feature].double().softmax(dim=1).sqrt()
            mean = roots.mean(0)
            _, _, axes = torch.linalg.svd(roots - mean, full_matrices=False)
            kept = axes[: self.width]
            # the sign of an axis is arbitrary; fixed, the same data give the same weights
            signs = kept.gather(1, kept.abs().argmax(dim=1, keepdim=True)).sign()
            self.get_buffer(f"mean_{feature}").copy_(mean)
            self.get_buffer(f"axes_{feature}").zero_()[:, : len(kept)].copy_((kept * signs).T)
        return self

    def neutral(self, joined: Tensor) -> Tensor:
        """Return a context (b, width × F) that says nothing, in place of `joined`: the mean."""
        return torch.zeros_like(joined)

    @torch.no_grad()
    def known(self, labels: Labels) -> tuple[Tensor, Tensor]:
        """Return axes (n, width × F) and offsets (n,) of photos with known labels {feature: (n,)}.

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
        """Join {feature: logits (b, C)} to (b, width × F)."""
        parts = []
        for feature in self.vocabularies:
            roots = logits[feature].softmax(dim=1).sqrt()
            axes = self.get_buffer(f"axes_{feature}")
            parts.append((roots - self.get_buffer(f"mean_{feature}")) @ axes)
        return torch.cat(parts, dim=1)
