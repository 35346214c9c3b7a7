import numpy as np
import pytest
import torch

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.earth.sphere import fibonacci_sphere
from geoclip_core.model.kernel_context import KernelContextHeads, KernelContextJoin
from geoclip_core.model.retrieval_head import RetrievalHead

COUNTRY = Vocabulary("country", ("CL", "FI", "KE"), ("Chile", "Finland", "Kenya"))
MONTH = Vocabulary("month", ("January", "July"), ("January", "July"))
WORDS = {"country": COUNTRY, "month": MONTH}


def _heads(rows=45, **options):
    """Three well-parted clusters, one a country; every fifth photo without a month."""
    generator = torch.Generator().manual_seed(1)
    country = np.arange(rows) % 3
    normalised = torch.eye(3).repeat(1, 2)[country] * 3 + torch.randn(rows, 6, generator=generator)
    head = RetrievalHead((6,), bank_size=rows, vote="kernel-ridge")
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
    head = RetrievalHead((6,), bank_size=int(known.sum()), vote="kernel-ridge")
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
    for feature, logits in heads(normalised).items():
        assert torch.equal(again(normalised)[feature], logits)
    assert set(heads.state_dict()) == {"labels_country", "labels_month"}


def test_the_join_projects_and_knows_the_labels():
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


def test_what_does_not_fit_is_refused():
    heads, _, country = _heads()
    with pytest.raises(ValueError, match="month"):
        heads.fit({"country": country, "month": np.full(45, -100)})
    with pytest.raises(ValueError, match="'country' do not fit"):
        heads.fit({"country": country + 1, "month": country})
    with pytest.raises(ValueError, match="45 photos"):
        heads.attach(RetrievalHead((6,), bank_size=3))
    with pytest.raises(ValueError, match="not attached"):
        KernelContextHeads(6, WORDS, bank_size=45)(torch.zeros(1, 6))
