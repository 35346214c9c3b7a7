"""Context heads in closed form, for banks of hundreds of photos.

Kernel ridge regression onto one-hot labels, with the same bank and kernel as the retrieval head.
Gradient descent has too few photos there; the closed form also gives every training photo the
logits it would get had it been left out, so that what joins the bank is honest.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.model.kernel_ridge import cosine_kernel, fit_kernel_ridge, leave_one_out
from geoclip_core.model.retrieval_head import RetrievalHead

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
