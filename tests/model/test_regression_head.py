import math

import numpy as np
import pytest
import torch

from geoclip_core.earth.sphere import EARTH_RADIUS_KM, destination, haversine_km
from geoclip_core.model.regression_head import RegressionHead, RegressionOutput


def test_an_untrained_head_answers_with_the_mean_of_the_training_photos():
    coordinates = destination(np.array([0.0, 180.0]), np.array([0.0, 90, 180, 270]), 300.0)
    head = RegressionHead((4,))
    head.start_from(coordinates)
    torch.nn.init.zeros_(head.direction.weight)
    answer = head.answers(head(torch.randn(1, 4)))[0].numpy()
    assert haversine_km(answer, np.array([0.0, 180.0])) < 0.1
    assert head.extent_km.item() == pytest.approx(300, rel=1e-4)


def test_loss_by_hand():
    head = RegressionHead((4,))
    head.extent_km.fill_(1000.0)
    output = RegressionOutput(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([math.log(500.0)]))
    distance = EARTH_RADIUS_KM * math.radians(9)
    expected = distance / 1000 + 0.1 * (distance / 500 + 2 * math.log(0.5))
    loss = head.loss(output, torch.tensor([[9.0, 0.0]]))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_spread_does_not_pull_on_the_direction():
    head = RegressionHead((4,))
    gradients = []
    for scale in (100.0, 5000.0):
        vectors = torch.tensor([[1.0, 0.2, 0.0]], requires_grad=True)
        output = RegressionOutput(vectors, torch.tensor([math.log(scale)]))
        head.loss(output, torch.tensor([[20.0, -40.0]])).backward()
        gradients.append(vectors.grad)
    assert torch.equal(*gradients)


def test_posterior_is_centred_and_holds_the_learnt_spread():
    head = RegressionHead((4,))
    output = RegressionOutput(torch.tensor([[-3.0, 0.01, 0.0]]), torch.tensor([math.log(100.0)]))
    (posterior,) = head.raw_posteriors(output)
    centre = head.answers(output)[0].numpy()
    assert haversine_km(np.array(posterior.mode()), centre) < 0.1
    # half of the mass of exp(−d / s) on a plane lies within 1.678 s
    assert posterior.radius_km(0.5) == pytest.approx(168, rel=0.15)
    assert posterior.radius_km(0.9) == pytest.approx(389, rel=0.2)


def test_it_learns_across_the_date_line():
    torch.manual_seed(0)
    inputs = torch.randn(300, 4)
    longitude = (180 + 5 * inputs[:, 1].numpy() + 180) % 360 - 180
    coordinates = np.stack([-17 + 3 * inputs[:, 0].numpy(), longitude], 1)
    head = RegressionHead((4,), hidden=16)
    head.start_from(coordinates)
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


def test_it_is_built_again_from_options_and_weights():
    head = RegressionHead((4, 3), hidden=8, dropout=0.3)
    again = RegressionHead((4, 3), **head.options)
    again.load_state_dict(head.state_dict())
    joined = torch.randn(2, 7)
    assert torch.equal(head.eval()(joined).vectors, again.eval()(joined).vectors)
