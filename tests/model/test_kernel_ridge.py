import pytest
import torch

from geoclip_core.model.kernel_ridge import cosine_kernel, fit_kernel_ridge, leave_one_out


def _data(rows=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(rows, 3, generator=generator), dim=1)
    return cosine_kernel(directions @ directions.T, 1.5), torch.randn(rows, 2, generator=generator)


def test_kernel_of_known_angles():
    cosines = torch.tensor([1.0, 0.0, -1.0])
    assert torch.allclose(cosine_kernel(cosines, 2.0), torch.exp(torch.tensor([0.0, -2.0, -4.0])))


def test_a_small_ridge_interpolates_and_a_large_one_gives_the_mean():
    kernel, targets = _data()
    coefficients, mean = fit_kernel_ridge(kernel, targets, 1e-6)
    assert torch.allclose(kernel.double() @ coefficients + mean, targets.double(), atol=1e-3)
    coefficients, mean = fit_kernel_ridge(kernel, targets, 1e9)
    assert torch.allclose(kernel.double() @ coefficients, torch.zeros(12, 2).double(), atol=1e-6)
    assert torch.allclose(mean, targets.double().mean(0))


def test_leave_one_out_is_what_leaving_one_out_gives():
    kernel, targets = _data()
    quick = leave_one_out(kernel, targets, 0.3)
    mean = targets.double().mean(0)
    for row in range(len(targets)):
        rest = torch.arange(len(targets)) != row
        # the formula keeps the mean of all rows, as the fit does
        inner = kernel[rest][:, rest].double() + 0.3 * torch.eye(len(targets) - 1).double()
        slow = torch.linalg.solve(inner, targets[rest].double() - mean)
        assert torch.allclose(kernel[row, rest].double() @ slow + mean, quick[row], atol=1e-9)


def test_a_ridge_of_zero_is_refused():
    kernel, targets = _data()
    with pytest.raises(ValueError, match="ridge"):
        fit_kernel_ridge(kernel, targets, 0.0)
