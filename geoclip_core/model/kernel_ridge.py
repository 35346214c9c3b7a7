"""Kernel ridge regression in closed form, with its leave-one-out predictions.

Saunders, Gammerman & Vovk, ICML 1998; the leave-one-out formula is that of Rasmussen & Williams,
Gaussian Processes for Machine Learning, 2006, equation 5.12.
"""

import torch
from torch import Tensor


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
