import math

import numpy as np
import pytest
import torch

from geoclip_core.earth.geocells import Geocells, make_geocells
from geoclip_core.earth.sphere import EARTH_RADIUS_KM, destination, haversine_km
from geoclip_core.model.coordinate_heads import (
    LARGEST_OFFSET,
    GeocellHead,
    GeocellOutput,
    RegressionHead,
    RegressionOutput,
)


def test_an_untrained_head_answers_with_the_mean_of_the_training_photos():
    coordinates = destination(np.array([0.0, 180.0]), np.array([0.0, 90, 180, 270]), 300.0)
    head = RegressionHead((4,))
    head.start_from(coordinates, None)
    torch.nn.init.zeros_(head.direction.weight)
    answer = head.answers(head(torch.randn(1, 4)))[0].numpy()
    assert haversine_km(answer, np.array([0.0, 180.0])) < 0.1
    assert head.extent_km.item() == pytest.approx(300, rel=1e-4)


def test_regression_loss_has_the_known_value():
    head = RegressionHead((4,))
    head.extent_km.fill_(1000.0)
    output = RegressionOutput(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([math.log(500.0)]))
    distance = EARTH_RADIUS_KM * math.radians(9)
    expected = distance / 1000 + 0.1 * (distance / 500 + 2 * math.log(0.5))
    loss = head.loss(output, torch.tensor([[9.0, 0.0]]))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_scale_has_no_gradient_on_the_direction():
    head = RegressionHead((4,))
    gradients = []
    for scale in (100.0, 5000.0):
        vectors = torch.tensor([[1.0, 0.2, 0.0]], requires_grad=True)
        output = RegressionOutput(vectors, torch.tensor([math.log(scale)]))
        head.loss(output, torch.tensor([[20.0, -40.0]])).backward()
        gradients.append(vectors.grad)
    torch.testing.assert_close(*gradients)


def test_posterior_is_centred_and_holds_the_learnt_spread():
    head = RegressionHead((4,))
    output = RegressionOutput(torch.tensor([[-3.0, 0.01, 0.0]]), torch.tensor([math.log(100.0)]))
    (posterior,) = head.raw_posteriors(output)
    centre = head.answers(output)[0].numpy()
    assert haversine_km(np.array(posterior.mode()), centre) < 0.1
    # half of the mass of exp(−d / s) on a plane lies within 1.678 s
    assert posterior.radius_km(0.5) == pytest.approx(168, rel=0.15)
    assert posterior.radius_km(0.9) == pytest.approx(389, rel=0.2)


def test_regression_learns_across_the_date_line():
    torch.manual_seed(0)
    inputs = torch.randn(300, 4)
    longitude = (180 + 5 * inputs[:, 1].numpy() + 180) % 360 - 180
    coordinates = np.stack([-17 + 3 * inputs[:, 0].numpy(), longitude], 1)
    head = RegressionHead((4,), hidden=16)
    head.start_from(coordinates, None)
    truth = torch.from_numpy(coordinates)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        head.loss(head(inputs), truth).backward()
        optimizer.step()
    output = head(inputs)
    errors = haversine_km(head.answers(output).numpy(), coordinates)
    assert np.median(errors) < 100
    scales = output.log_scales.exp().detach().numpy()
    assert 0.2 < np.mean(errors) / (2 * np.mean(scales)) < 3


def test_a_regression_head_is_rebuilt_from_options_and_weights():
    head = RegressionHead((4, 3), hidden=8, dropout=0.3)
    again = RegressionHead((4, 3), **head.options)
    again.load_state_dict(head.state_dict())
    joined = torch.randn(2, 7)
    torch.testing.assert_close(head.eval()(joined).vectors, again.eval()(joined).vectors)


CENTRES = np.array([[40.0, -100.0], [40.0, -90.0], [30.0, -100.0]])


def _head(**options):
    torch.manual_seed(0)
    head = GeocellHead((4,), 3, **options)
    around = np.concatenate([destination(CENTRES, bearing, 50.0) for bearing in (0, 90, 180, 270)])
    head.start_from(around, Geocells(CENTRES))
    return head


def test_cells_set_radius_spacing_and_prior():
    head = _head(smoothing=0.5)
    assert head.radii_km.tolist() == pytest.approx([50, 50, 50], rel=1e-3)
    apart = haversine_km(CENTRES[0], CENTRES[1])
    assert head.tau_km == pytest.approx(0.5 * apart, rel=1e-4)
    assert head.classifier.bias.exp().tolist() == pytest.approx([1 / 3] * 3)


def test_loss_at_even_odds_is_the_logarithm_of_the_cells():
    head = _head(smoothing=0.0)
    output = GeocellOutput(torch.zeros(1, 3), torch.zeros(1, 32))
    # the untrained offset is zero, so the second part is 0 for a photo on its centre
    assert head.loss(output, torch.tensor(CENTRES[:1])).item() == pytest.approx(
        math.log(3), abs=1e-4
    )


def test_an_untrained_head_answers_with_a_centre():
    head = _head()
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    output = GeocellOutput(logits, torch.randn(2, 32))
    answers = head.answers(output).numpy()
    assert haversine_km(answers, CENTRES[[0, 2]]).max() < 1e-3
    modes = np.array([posterior.mode() for posterior in head.raw_posteriors(output)])
    assert haversine_km(modes, CENTRES[[0, 2]]).max() < 1e-3


def test_offsets_are_bounded_and_shared():
    head = _head()
    torch.nn.init.normal_(head.offset_layer.weight, std=1e3)
    output = GeocellOutput(torch.zeros(1, 3), torch.randn(1, 32) * 100)
    moved = head.raw_posteriors(output)[0].points
    reach = math.sqrt(2) * LARGEST_OFFSET * 50
    assert haversine_km(moved, CENTRES).max() <= reach * 1.01
    assert haversine_km(moved, CENTRES).max() > 50
    assert head.offset_layer.out_features == 2  # not 2 × cells


@pytest.mark.slow
def test_geocells_learn_and_answers_agree_with_posteriors():
    torch.manual_seed(1)
    inputs = torch.randn(400, 4)
    coordinates = np.stack(
        [38 + inputs[:, 0].numpy().clip(-2, 2), -100 + 2 * inputs[:, 1].numpy().clip(-2, 2)], 1
    )
    cells = make_geocells(coordinates, 20, seed=0)
    head = GeocellHead((4,), len(cells))
    head.start_from(coordinates, cells)
    truth = torch.from_numpy(coordinates)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-2)
    for _ in range(120):
        optimizer.zero_grad()
        head.loss(head(inputs), truth).backward()
        optimizer.step()
    output = head(inputs)
    fast = head.answers(output).numpy()
    modes = np.array([posterior.mode() for posterior in head.raw_posteriors(output)])
    constant = np.median(haversine_km(coordinates, coordinates.mean(0)))
    assert np.median(haversine_km(fast, coordinates)) < 0.4 * constant
    assert np.median(haversine_km(modes, coordinates)) < 0.4 * constant


def test_a_geocell_head_is_rebuilt_from_options_and_weights():
    head = _head(hidden=8, offset_rank=5)
    again = GeocellHead((4,), **head.options)
    again.load_state_dict(head.state_dict())
    joined = torch.randn(2, 4)
    for one, other in zip(
        head.raw_posteriors(head(joined)), again.raw_posteriors(again(joined)), strict=True
    ):
        np.testing.assert_allclose(one.points, other.points, atol=1e-4)
        np.testing.assert_allclose(one.log_weights, other.log_weights, atol=1e-5)


def test_without_offsets_no_offset_parameter_exists():
    assert [name for name, _ in _head(offset_rank=0).named_parameters()] == [
        "classifier.weight",
        "classifier.bias",
    ]


def test_a_single_cell_has_a_finite_loss():
    head = GeocellHead((4,), 1)
    coordinates = np.array([[10.0, 20.0], [10.2, 20.2]])
    head.start_from(coordinates, make_geocells(coordinates, 1))
    loss = head.loss(head(torch.randn(2, 4)), torch.from_numpy(coordinates))
    assert torch.isfinite(loss)


def test_another_number_of_cells_is_refused():
    head = GeocellHead((4,), 2)
    with pytest.raises(ValueError, match="3 cells were given"):
        head.start_from(CENTRES, Geocells(CENTRES))
