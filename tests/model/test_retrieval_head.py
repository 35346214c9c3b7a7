import numpy as np
import pytest
import torch

from geoclip_core.earth.sphere import GEOSCORE_SCALE_KM, fibonacci_sphere, haversine_km
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.retrieval_head import MAX_RIDGE_BANK, RetrievalHead

WIDTHS = (6, 4)


def _bank(rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    places = fibonacci_sphere(rows)
    return torch.randn(rows, sum(WIDTHS), generator=generator), places


def _head(vote, rows=40, **options):
    joined, places = _bank(rows)
    return RetrievalHead(WIDTHS, bank_size=rows, vote=vote, **options).fit(joined, places)


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
    indices, similarity = head.neighbours_of(joined[:7], 3)
    assert indices[:, 0].tolist() == list(range(7))
    assert similarity.shape == (7, 3)


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


def test_a_cosine_vote_asks_only_the_nearest():
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
    head = RetrievalHead(WIDTHS, bank_size=40, vote="kernel-ridge", agreement=0.5)
    axes = torch.zeros(40, 4)
    axes[3, 1] = 1.0
    head.fit(joined, places).know_context(axes, torch.full((40,), 0.25))
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
    again = RetrievalHead(WIDTHS, **head.options)
    query = torch.randn(3, 10)
    first = head(query).votes
    again(query)  # a solution of the empty bank must not survive the loading
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(query).votes, first)
    assert set(head.state_dict()) == {"bank", "coordinates"}


def test_calibration_reaches_the_posteriors():
    head = _head("cosine")
    calibration = Calibration(2.0, 77.0, {"50": 0.5})
    raw = head.posteriors(head(torch.randn(1, 10)))[0]
    assert raw.bandwidth_km == 300.0
    fitted = head.posteriors(head(torch.randn(1, 10)), calibration)[0]
    assert fitted.bandwidth_km == 77.0
    assert fitted.radius_scale == ((0.5, 0.5),)


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="empty"):
        RetrievalHead(WIDTHS)(torch.zeros(1, 10))
    with pytest.raises(ValueError, match="cosine"):
        RetrievalHead(WIDTHS, bank_size=MAX_RIDGE_BANK + 1, vote="kernel-ridge")
    with pytest.raises(ValueError, match="block weights"):
        RetrievalHead(WIDTHS, block_weights=(1.0,))
    with pytest.raises(ValueError, match="vote"):
        RetrievalHead(WIDTHS, vote="loud")
    with pytest.raises(ValueError, match="bank holds"):
        RetrievalHead(WIDTHS, bank_size=3).fit(torch.zeros(4, 10), np.zeros((4, 2)))
    head = _head("cosine")
    with pytest.raises(TypeError, match="fit_bank"):
        head.loss(head(torch.zeros(1, 10)), torch.zeros(1, 2))


def test_a_large_bank_votes_by_cosine_in_reasonable_time():
    rows = 20_000
    head = RetrievalHead((64,), bank_size=rows, vote="cosine", neighbours=500)
    joined = torch.randn(rows, 64)
    head.fit(joined, fibonacci_sphere(rows))
    posterior = head.posteriors(head(joined[17:18]))[0]
    assert len(posterior) == 500
    assert posterior.mode() == pytest.approx(tuple(fibonacci_sphere(rows)[17]), abs=1e-3)
