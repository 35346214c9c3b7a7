import math

import numpy as np
import pytest
import torch

from geoclip_core.earth.geocells import Geocells, make_geocells
from geoclip_core.earth.sphere import destination, haversine_km
from geoclip_core.model.geocell_head import LARGEST_OFFSET, GeocellHead, GeocellOutput

CENTRES = np.array([[40.0, -100.0], [40.0, -90.0], [30.0, -100.0]])


def _head(**options):
    torch.manual_seed(0)
    head = GeocellHead((4,), 3, **options)
    around = np.concatenate([destination(CENTRES, bearing, 50.0) for bearing in (0, 90, 180, 270)])
    head.start_from(Geocells(CENTRES), around)
    return head


def test_cells_bring_their_radius_spacing_and_prior():
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


def test_it_learns_and_its_two_readouts_agree():
    torch.manual_seed(1)
    inputs = torch.randn(400, 4)
    coordinates = np.stack(
        [38 + inputs[:, 0].numpy().clip(-2, 2), -100 + 2 * inputs[:, 1].numpy().clip(-2, 2)], 1
    )
    cells = make_geocells(coordinates, 20, seed=0)
    head = GeocellHead((4,), len(cells))
    head.start_from(cells, coordinates)
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


def test_it_is_built_again_from_options_and_weights():
    head = _head(hidden=8, offset_rank=5)
    again = GeocellHead((4,), **head.options)
    again.load_state_dict(head.state_dict())
    joined = torch.randn(2, 4)
    for one, other in zip(
        head.raw_posteriors(head(joined)), again.raw_posteriors(again(joined)), strict=True
    ):
        assert np.array_equal(one.points, other.points)
        assert np.array_equal(one.log_weights, other.log_weights)


def test_without_offsets_no_offset_parameter_exists():
    assert [name for name, _ in _head(offset_rank=0).named_parameters()] == [
        "classifier.weight",
        "classifier.bias",
    ]


def test_a_single_cell_works():
    head = GeocellHead((4,), 1)
    coordinates = np.array([[10.0, 20.0], [10.2, 20.2]])
    head.start_from(make_geocells(coordinates, 1), coordinates)
    loss = head.loss(head(torch.randn(2, 4)), torch.from_numpy(coordinates))
    assert torch.isfinite(loss)


def test_another_number_of_cells_is_refused():
    head = GeocellHead((4,), 2)
    with pytest.raises(ValueError, match="3 cells were made"):
        head.start_from(Geocells(CENTRES), CENTRES)
