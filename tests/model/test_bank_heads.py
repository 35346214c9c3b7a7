import numpy as np
import pytest
import torch

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.earth.sphere import GEOSCORE_SCALE_KM, haversine_km
from geoclip_core.model.bank_heads import (
    MAX_RIDGE_BANK,
    BankHead,
    KernelContextHeads,
    KernelContextJoin,
    cosine_kernel,
    fit_kernel_ridge,
    leave_one_out,
)
from geoclip_core.model.calibration import Calibration
from tests.sphere_points import fibonacci_sphere


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


def test_leave_one_out_equals_separate_fits():
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


WIDTHS = (6, 4)


def _bank(rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    places = fibonacci_sphere(rows)
    return torch.randn(rows, sum(WIDTHS), generator=generator), places


def _head(vote, rows=40, **options):
    joined, places = _bank(rows)
    return BankHead(WIDTHS, bank_size=rows, vote=vote, **options).fit(joined, places)


def test_similarity_is_the_weighted_mean_of_the_blocks_cosines():
    joined, _ = _bank()
    head = _head("cosine", block_weights=(3.0, 1.0))
    query = torch.randn(2, 10)
    blocks = zip(query.split(WIDTHS, 1), joined.split(WIDTHS, 1), strict=True)
    cosines = [torch.cosine_similarity(a[:, None], b[None], dim=2) for a, b in blocks]
    expected = 0.75 * cosines[0] + 0.25 * cosines[1]
    assert torch.allclose(head.similarity(query), expected, atol=2e-3)  # the bank is float16
    assert torch.allclose(head.embedding_similarity(query[:, :6]), cosines[0], atol=2e-3)
    assert torch.allclose(head.bank_similarity().diagonal(), torch.ones(40), atol=1e-5)


@pytest.mark.parametrize("vote", ["cosine", "kernel-ridge"])
def test_a_photo_of_the_bank_is_found_at_its_place(vote):
    joined, places = _bank()
    head = _head(vote, gamma=8.0, ridge=0.01, temperature=0.02)
    posteriors = head.posteriors(head(joined[:7]))
    errors = [haversine_km(np.array(p.mode()), places[i]) for i, p in enumerate(posteriors)]
    assert max(errors) < 1.0
    nearest = head.similarity(joined[:7]).argmax(dim=1)
    assert nearest.tolist() == list(range(7))


def test_the_field_is_fitted_to_the_scores_of_the_places():
    joined, places = _bank()
    head = _head("kernel-ridge", gamma=4.0, ridge=1e-5)
    votes = head(joined).votes
    distances = haversine_km(places[:, None], places[None])
    assert votes.numpy() == pytest.approx(np.exp(-distances / GEOSCORE_SCALE_KM), abs=0.02)


def test_a_wider_field_adds_to_the_targets():
    head = _head("kernel-ridge", field_scales=(GEOSCORE_SCALE_KM, 4000.0))
    assert torch.allclose(head.target_field().diagonal(), torch.full((40,), 2.0).double())
    assert torch.allclose(head.score_field().diagonal(), torch.ones(40).double())


def test_a_cosine_vote_uses_only_the_nearest_photos():
    joined, _ = _bank()
    head = _head("cosine", neighbours=5, temperature=0.1)
    output = head(joined[:2])
    posterior = head.raw_posteriors(output)[0]
    assert len(posterior) == 5
    top = output.votes[0].topk(5).values.double()
    assert posterior.weights == pytest.approx((top / 0.1).softmax(0).numpy())


def test_agreeing_context_moves_weight_but_not_the_answer():
    joined, places = _bank()
    plain = _head("kernel-ridge")
    head = BankHead(WIDTHS, bank_size=40, vote="kernel-ridge", agreement=0.5)
    axes = torch.zeros(40, 4)
    axes[3, 1] = 1.0
    head.fit(joined, places).set_known_context(axes, torch.full((40,), 0.25))
    query = torch.randn(1, 10)
    query[0, 7] = 4.0
    with_context, without = head(query), plain(query)
    assert with_context.agreement[0, 3] == pytest.approx(0.5 * (4.0 + 0.25))
    assert with_context.agreement[0, 4] == pytest.approx(0.5 * 0.25)
    a, b = head.raw_posteriors(with_context)[0], plain.raw_posteriors(without)[0]
    assert a.mode() == b.mode()
    assert a.weights[3] > b.weights[3]


def test_options_and_weights_make_the_same_head_again():
    head = _head("kernel-ridge", block_weights=(0.9, 0.1), gamma=2.0, ridge=0.2)
    head.configure(gamma=1.5, ridge=0.05, readout_temperature=0.03)
    again = BankHead(WIDTHS, **head.options)
    query = torch.randn(3, 10)
    first = head(query).votes
    again(query)  # loading weights must discard the solution for the empty bank
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again(query).votes, first)
    assert set(head.state_dict()) == {"bank", "coordinates"}


def test_calibration_reaches_the_posteriors():
    head = _head("cosine")
    calibration = Calibration(2.0, 77.0, {"50": 0.5})
    raw = head.posteriors(head(torch.randn(1, 10)))[0]
    assert raw.bandwidth_km == 300.0
    fitted = head.posteriors(head(torch.randn(1, 10)), calibration)[0]
    assert fitted.bandwidth_km == 77.0
    assert fitted.radius_scale == ((0.5, 0.5),)


def test_invalid_options_and_inputs_are_refused():
    with pytest.raises(ValueError, match="empty"):
        BankHead(WIDTHS)(torch.zeros(1, 10))
    with pytest.raises(ValueError, match="cosine"):
        BankHead(WIDTHS, bank_size=MAX_RIDGE_BANK + 1, vote="kernel-ridge")
    with pytest.raises(ValueError, match="block weights"):
        BankHead(WIDTHS, block_weights=(1.0,))
    with pytest.raises(ValueError, match="vote"):
        BankHead(WIDTHS, vote="loud")
    with pytest.raises(ValueError, match="bank has shape"):
        BankHead(WIDTHS, bank_size=3).fit(torch.zeros(4, 10), np.zeros((4, 2)))
    head = _head("cosine")
    with pytest.raises(TypeError, match="fit_bank"):
        head.loss(head(torch.zeros(1, 10)), torch.zeros(1, 2))


def test_a_large_bank_votes_by_cosine_in_reasonable_time():
    rows = 20_000
    head = BankHead((64,), bank_size=rows, vote="cosine", neighbours=500)
    joined = torch.randn(rows, 64)
    head.fit(joined, fibonacci_sphere(rows))
    posterior = head.posteriors(head(joined[17:18]))[0]
    assert len(posterior) == 500
    assert posterior.mode() == pytest.approx(tuple(fibonacci_sphere(rows)[17]), abs=1e-3)


COUNTRY = Vocabulary("country", ("CL", "FI", "KE"), ("Chile", "Finland", "Kenya"))
MONTH = Vocabulary("month", ("January", "July"), ("January", "July"))
WORDS = {"country": COUNTRY, "month": MONTH}


def _heads(rows=45, **options):
    """Return heads on three separate clusters, one per country; every fifth photo has no month."""
    generator = torch.Generator().manual_seed(1)
    country = np.arange(rows) % 3
    normalised = torch.eye(3).repeat(1, 2)[country] * 3 + torch.randn(rows, 6, generator=generator)
    head = BankHead((6,), bank_size=rows, vote="kernel-ridge")
    head.fit(normalised, fibonacci_sphere(rows))
    heads = KernelContextHeads(6, WORDS, bank_size=rows, **options)
    heads.attach(head)
    month = np.where(np.arange(rows) % 5 == 0, -100, np.arange(rows) % 2)
    return heads.fit({"country": country, "month": month}), normalised, country


def test_clusters_are_told_apart_even_when_left_out():
    heads, normalised, country = _heads()
    assert (heads(normalised)["country"].argmax(1).numpy() == country).mean() > 0.95
    assert (heads.left_out_logits()["country"].argmax(1).numpy() == country).mean() > 0.9
    shapes = {feature: tuple(logits.shape) for feature, logits in heads(normalised[:2]).items()}
    assert shapes == {"country": (2, 3), "month": (2, 2)}


@pytest.mark.parametrize("vote_weight", [0.0, 0.3])
def test_left_out_logits_do_not_know_the_own_label(vote_weight):
    heads, _, country = _heads(vote_weight=vote_weight)
    before = heads.left_out_logits()["country"]
    wrong = country.copy()
    wrong[4] = (country[4] + 1) % 3
    labels = {"country": wrong, "month": heads.labels_month.numpy()}
    after = heads.fit(labels).left_out_logits()["country"]
    # only the share of each class overall, which centres the targets, may move the own logits
    assert torch.allclose(after[4], before[4], atol=0.5)
    assert not torch.allclose(after[7], before[7], atol=1e-6)


def test_photos_without_a_label_take_no_part():
    heads, normalised, _ = _heads(vote_weight=0.0)
    known = heads.labels_month >= 0
    head = BankHead((6,), bank_size=int(known.sum()), vote="kernel-ridge")
    head.fit(normalised[known], np.zeros((int(known.sum()), 2)))
    fewer = KernelContextHeads(6, {"month": MONTH}, bank_size=len(head.bank), vote_weight=0.0)
    fewer.attach(head)
    fewer.fit({"month": heads.labels_month[known].numpy()})
    assert torch.allclose(heads(normalised)["month"], fewer(normalised)["month"], atol=1e-4)


def test_options_and_weights_make_the_same_heads_again():
    heads, normalised, _ = _heads(ridge=0.2)
    heads.configure(gamma=2.0, ridge=0.4, sharpness={"country": 7.0})
    again = KernelContextHeads(6, WORDS, **heads.options)
    again.attach(heads._bank[0])
    again.load_state_dict(heads.state_dict())
    torch.testing.assert_close(again(normalised), heads(normalised))
    assert set(heads.state_dict()) == {"labels_country", "labels_month"}


def test_the_join_gives_the_agreement_with_known_labels():
    heads, _, country = _heads()
    logits = heads.left_out_logits()
    join = KernelContextJoin(WORDS, width=3).fit(logits)
    joined = join(logits)
    assert joined.shape == (45, 6)
    assert join.output_width == 6
    assert torch.allclose(joined.mean(0), torch.zeros(6), atol=1e-5)
    labels = {"country": country, "month": heads.labels_month.numpy()}
    axes, offsets = join.known(labels)
    agreement = joined @ axes.T + offsets
    # nothing is dropped at full width: the mean of the square roots of the two probabilities
    roots = {feature: values.softmax(1).sqrt() for feature, values in logits.items()}
    month = labels["month"][3]
    expected = (roots["country"][:, country[3]] + roots["month"][:, month]) / 2
    assert torch.allclose(agreement[:, 3], expected, atol=1e-4)


def test_labels_and_banks_that_do_not_fit_are_refused():
    heads, _, country = _heads()
    with pytest.raises(ValueError, match="month"):
        heads.fit({"country": country, "month": np.full(45, -100)})
    with pytest.raises(ValueError, match="'country' do not fit"):
        heads.fit({"country": country + 1, "month": country})
    with pytest.raises(ValueError, match="45 photos"):
        heads.attach(BankHead((6,), bank_size=3))
    with pytest.raises(ValueError, match="not attached"):
        KernelContextHeads(6, WORDS, bank_size=45)(torch.zeros(1, 6))
