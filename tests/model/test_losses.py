import math

import pytest
import torch

from geoclip_core.earth.sphere import EARTH_RADIUS_KM, pairwise_km
from geoclip_core.model import losses


def test_masked_cross_entropy_sums_the_rows_with_a_label():
    logits = torch.tensor([[math.log(3.0), 0.0], [5.0, -7.0], [0.0, math.log(9.0)]])
    labels = torch.tensor([0, losses.IGNORE_INDEX, 0])
    # −ln(3/4) and −ln(1/10)
    expected = math.log(4 / 3) + math.log(10)
    assert losses.masked_cross_entropy(logits, labels).item() == pytest.approx(expected)


def test_masked_rows_have_no_gradient():
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([2, losses.IGNORE_INDEX, 0, losses.IGNORE_INDEX])
    losses.masked_cross_entropy(logits, labels).backward()
    assert logits.grad[[1, 3]].abs().max() == 0
    assert logits.grad[[0, 2]].abs().min() > 0


@pytest.mark.parametrize("by_class", [False, True])
def test_masked_cross_entropy_is_that_of_torch_however_the_logits_are_stored(by_class):
    stored = torch.randn(7, 7).T if by_class else torch.randn(7, 7)
    labels = torch.tensor([3, losses.IGNORE_INDEX, 0, 6, 6, losses.IGNORE_INDEX, 1])
    gradients = []
    for loss in (losses.masked_cross_entropy, torch.nn.functional.cross_entropy):
        logits = stored.detach().requires_grad_()
        more = {} if loss is losses.masked_cross_entropy else {"reduction": "sum"}
        value = loss(logits, labels, **more)
        value.backward()
        gradients.append((value.item(), logits.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0])
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-6)


def test_the_loss_without_labels_is_zero():
    logits = torch.randn(4, 3, requires_grad=True)
    loss = losses.masked_cross_entropy(logits, torch.full((4,), losses.IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_parts_divided_by_the_whole_count_add_up_to_the_mean():
    logits, labels = torch.randn(10, 5), torch.tensor([0, 1, -100, 2, 3, -100, -100, 4, 0, 1])
    mean = torch.nn.functional.cross_entropy(logits, labels, ignore_index=losses.IGNORE_INDEX)
    parts = sum(
        losses.masked_cross_entropy(logits[rows], labels[rows]) / 7
        for rows in (slice(0, 3), slice(3, 10))
    )
    assert parts.item() == pytest.approx(mean.item(), rel=1e-6)


def test_log_priors_count_one_extra_row_per_class():
    priors = losses.log_priors(torch.tensor([0, 0, 0, 1, -100]), 3)
    assert priors.exp().tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_balanced_logits_add_the_log_priors():
    priors = torch.tensor([0.9, 0.1]).log()
    logits = torch.zeros(1, 2)
    assert torch.equal(losses.balanced_logits(logits, priors, 0.0), logits)
    shares = losses.balanced_logits(logits, priors, 1.0).softmax(1)
    assert shares[0].tolist() == pytest.approx([0.9, 0.1])


def test_smoothed_targets_have_the_known_values():
    distances = torch.tensor([[0.0, 100 * math.log(2), 100 * math.log(4)]], dtype=torch.float64)
    targets = losses.distance_smoothed_targets(distances, 100.0)
    assert targets[0].tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    nearest = losses.distance_smoothed_targets(distances.flip(1), 0.0)
    assert nearest[0].tolist() == [0, 0, 1]


def test_smoothed_cross_entropy_crosses_the_date_line():
    centres = torch.tensor([[0.0, 179.5], [0.0, -179.5], [0.0, 0.0]])
    distances = pairwise_km(torch.tensor([[0.0, 180.0]]), centres)
    loss = losses.distance_smoothed_cross_entropy(torch.zeros(1, 3), distances, 50.0)
    assert loss.item() == pytest.approx(math.log(3))
    both = torch.tensor([[0.0, 0.0, -30.0]])
    loss = losses.distance_smoothed_cross_entropy(both, distances, 50.0)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_unsmoothed_is_plain_cross_entropy_of_the_nearest_cell():
    centres = torch.tensor([[40.0, -100.0], [30.0, -95.0]])
    logits = torch.tensor([[0.3, -1.2]])
    distances = pairwise_km(torch.tensor([[31.0, -96.0]]), centres)
    loss = losses.distance_smoothed_cross_entropy(logits, distances, 0)
    assert loss.item() == pytest.approx(-torch.log_softmax(logits, 1)[0, 1].item())


def test_great_circle_distance_of_a_quarter_of_the_equator():
    vectors = torch.tensor([[2.0, 0.0, 0.0]])
    distance = losses.great_circle_km(vectors, torch.tensor([[0.0, 90.0]]))
    assert distance.item() == pytest.approx(math.pi / 2 * EARTH_RADIUS_KM, rel=1e-6)


def test_great_circle_distance_across_the_date_line():
    vectors = torch.tensor([[-1.0, -1e-3, 0.0]])  # just east of the date line
    distance = losses.great_circle_km(vectors, torch.tensor([[0.0, 179.9999]]))
    assert distance.item() < 7


@pytest.mark.parametrize("coordinates", [[0.0, 0.0], [0.0, 180.0], [90.0, 17.0]])
def test_great_circle_gradient_is_finite_where_it_is_undefined(coordinates):
    vectors = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    losses.great_circle_km(vectors, torch.tensor([coordinates])).sum().backward()
    assert torch.isfinite(vectors.grad).all()


def test_contrastive_loss_with_one_positive_is_the_mean_of_two_cross_entropies():
    torch.manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    logits = 7.0 * images @ texts.T
    labels = torch.arange(5)
    expected = sum(torch.nn.functional.cross_entropy(m, labels) for m in (logits, logits.T)) / 2
    own = torch.eye(5, dtype=torch.bool)
    loss = losses.contrastive_loss(images, texts, 7.0, own)
    assert loss.item() == pytest.approx(expected.item())


def test_equal_captions_are_positives_of_each_other():
    same = torch.tensor([[1.0, 0.0]]).repeat(2, 1)
    everything = torch.ones(2, 2, dtype=torch.bool)
    loss = losses.contrastive_loss(same, same, 10.0, everything)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    images = same.clone().requires_grad_()
    losses.contrastive_loss(images, same, 10.0, everything).backward()
    assert images.grad.abs().max() < 1e-6


def test_contrastive_loss_refuses_a_photo_without_its_caption():
    vectors = torch.eye(2)
    with pytest.raises(ValueError, match="own caption"):
        losses.contrastive_loss(vectors, vectors, 1.0, torch.tensor([[True, False], [True, False]]))
