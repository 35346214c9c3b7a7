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


class KernelContextHeads(nn.Module):
    """One kernel ridge classifier a feature, over the embeddings in a retrieval head's bank.

    Args:
        embedding_width: width D of the normalised embedding.
        vocabularies: the classes of each feature, in the order of the output.
        bank_size: photos in the bank.
        gamma: the kernel is exp(γ (similarity − 1)).
        ridge: the ridge.
        sharpness: feature -> factor that turns fitted shares into logits.
    """

    def __init__(
        self,
        embedding_width: int,
        vocabularies: Mapping[str, Vocabulary],
        bank_size: int = 0,
        gamma: float = 1.0,
        ridge: float = 0.3,
        sharpness: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.embedding_width = int(embedding_width)
        self.vocabularies = dict(vocabularies)
        self.bank_size = int(bank_size)
        for feature in self.vocabularies:
            empty = torch.full((self.bank_size,), IGNORE_INDEX, dtype=torch.int16)
            self.register_buffer(f"labels_{feature}", empty)
            # worked out from bank and labels when first needed, so never saved
            self.register_buffer(f"_coefficients_{feature}", None, persistent=False)
            self.register_buffer(f"_means_{feature}", None, persistent=False)
        self._bank: tuple[RetrievalHead, ...] = ()
        self.configure(gamma, ridge, sharpness or {})

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same heads again."""
        return {
            "bank_size": self.bank_size,
            "gamma": self.gamma,
            "ridge": self.ridge,
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
        logits = {}
        for feature in self.vocabularies:
            if self.get_buffer(f"_coefficients_{feature}") is None:
                self._solve(feature)
            shares = kernel @ self.get_buffer(f"_coefficients_{feature}")
            shares = shares + self.get_buffer(f"_means_{feature}")
            logits[feature] = (self.sharpness[feature] * shares).to(embedding.dtype)
        return logits

    @torch.no_grad()
    def left_out_logits(self) -> dict[str, Tensor]:
        """{feature: logits (n, C)} that each photo of the bank would get had it been left out."""
        kernel = self._kernel()
        logits = {}
        for feature in self.vocabularies:
            known, targets = self._targets(feature)
            coefficients, means = fit_kernel_ridge(kernel[known][:, known], targets, self.ridge)
            shares = kernel[:, known] @ coefficients + means
            shares[known] = leave_one_out(kernel[known][:, known], targets, self.ridge)
            logits[feature] = (self.sharpness[feature] * shares).float()
        return logits

    def _solve(self, feature: str) -> None:
        kernel = self._kernel()
        known, targets = self._targets(feature)
        coefficients, means = fit_kernel_ridge(kernel[known][:, known], targets, self.ridge)
        device = self._attached().bank.device
        full = torch.zeros(self.bank_size, targets.shape[1], dtype=torch.float64, device=device)
        full[known.to(device)] = coefficients.to(device)
        setattr(self, f"_coefficients_{feature}", full)
        setattr(self, f"_means_{feature}", means.to(device))

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
        for feature in self.vocabularies:
            setattr(self, f"_coefficients_{feature}", None)
            setattr(self, f"_means_{feature}", None)

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

    def forward(self, logits: Mapping[str, Tensor]) -> Tensor:
        """{feature: logits (b, C)} -> (b, width × F)."""
        parts = []
        for feature in self.vocabularies:
            roots = logits[feature].softmax(dim=1).sqrt()
            axes = self.get_buffer(f"axes_{feature}")
            parts.append((roots - self.get_buffer(f"mean_{feature}")) @ axes)
        return torch.cat(parts, dim=1)
