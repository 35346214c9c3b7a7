import pytest
import torch

from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.model.context_heads import ContextHeads, ContextJoin
from geoclip_core.model.losses import masked_cross_entropy

STATE = Vocabulary("state", ("I", "T", "N"), ("Idaho", "Texas", "Nowhere"))
COUNTY = Vocabulary("county", ("a", "b", "c", "x"), ("a", "b", "c", "x"), (0, 1, 1, -1), "state")
# county b has no city; city z belongs to no county that is known
CITY = Vocabulary("city", ("p", "q", "r", "z"), ("p", "q", "r", "z"), (0, 2, 2, -1), "county")
MONTH = Vocabulary("month", ("January", "July"), ("January", "July"))
LINKED = {"state": STATE, "county": COUNTY, "city": CITY, "month": MONTH}


def _heads(**options):
    torch.manual_seed(3)
    heads = ContextHeads(6, LINKED, **options)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    return heads.eval()


def test_logits_of_each_feature_in_order():
    logits = _heads()(torch.randn(5, 6))
    assert list(logits) == ["state", "county", "city", "month"]
    assert {f: tuple(v.shape) for f, v in logits.items()} == {
        "state": (5, 3),
        "county": (5, 4),
        "city": (5, 4),
        "month": (5, 2),
    }


def test_smaller_places_sum_up_to_larger_ones():
    logits = _heads()(torch.randn(7, 6))
    state, county, city = (logits[f].exp() for f in ("state", "county", "city"))
    assert torch.allclose(county[:, 0], city[:, 0], atol=1e-6)
    assert torch.allclose(county[:, 2], city[:, 1] + city[:, 2], atol=1e-6)
    assert torch.allclose(state[:, 0], county[:, 0], atol=1e-6)
    assert torch.allclose(state[:, 1], county[:, 1] + county[:, 2], atol=1e-6)
    # all smallest places: four cities, county b, county x and the state with nothing inside
    everything = city.sum(1) + county[:, 1] + county[:, 3] + state[:, 2]
    assert torch.allclose(everything, torch.ones(7), atol=1e-6)


def test_probabilities_equal_a_softmax_over_the_smallest_places():
    heads = ContextHeads(1, {"state": STATE, "county": COUNTY, "city": CITY})
    scores = {"state": [1.0, 2.0, 3.0], "county": [0.5, 0.1, 0.2, 0.7], "city": [1, 2, 3, 4]}
    for feature, values in scores.items():
        torch.nn.init.zeros_(heads.layers[feature].weight)
        heads.layers[feature].bias.data = torch.tensor(values, dtype=torch.float32)
    exp = torch.tensor([1 + 0.5 + 1, 2 + 0.2 + 2, 2 + 0.2 + 3, 4, 2 + 0.1, 0.7, 3]).exp()
    city = heads(torch.zeros(1, 1))["city"].exp()[0]
    assert torch.allclose(city, exp[:4] / exp.sum(), atol=1e-6)


def test_extreme_scores_stay_finite_with_finite_gradients():
    heads = _heads()
    embedding = (torch.randn(4, 6) * 200).requires_grad_()
    logits = heads(embedding)
    loss = sum(masked_cross_entropy(v, torch.zeros(4, dtype=torch.long)) for v in logits.values())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embedding.grad).all()


def test_a_photo_without_a_city_trains_county_and_state():
    heads = _heads()
    logits = heads(torch.randn(3, 6))
    loss = masked_cross_entropy(logits["county"], torch.tensor([2, 2, IGNORE_INDEX]))
    loss.backward()
    assert heads.layers["state"].weight.grad.abs().sum() > 0
    assert heads.layers["county"].weight.grad.abs().sum() > 0
    assert heads.layers["month"].weight.grad is None


def test_a_feature_alone_is_a_plain_classifier():
    heads = ContextHeads(6, {"county": COUNTY})
    embedding = torch.randn(2, 6)
    torch.testing.assert_close(heads(embedding)["county"], heads.layers["county"](embedding))


def test_the_shared_layer_and_its_options_rebuild():
    heads = _heads(kind="mlp", hidden=9, dropout=0.5)
    again = ContextHeads(6, LINKED, **heads.options)
    again.load_state_dict(heads.state_dict())
    embedding = torch.randn(2, 6)
    expected = heads(embedding)
    torch.testing.assert_close(again.eval()(embedding), expected)


def test_fewer_than_two_classes_are_refused():
    with pytest.raises(ValueError, match="month"):
        ContextHeads(6, {"month": Vocabulary("month", ("July",), ("July",))})
    with pytest.raises(ValueError, match="kind"):
        ContextHeads(6, LINKED, kind="deep")


def test_join_is_bounded_and_ignores_constants():
    torch.manual_seed(0)
    join = ContextJoin(LINKED, width=5)
    logits = {f: torch.randn(3, len(v)) for f, v in LINKED.items()}
    joined = join(logits)
    assert joined.shape == (3, 20) == (3, join.output_width)
    assert torch.allclose(join({f: v + 7 for f, v in logits.items()}), joined, atol=1e-5)
    assert join({f: v * 1e4 for f, v in logits.items()}).abs().max() < 30
    certain = {
        f: torch.full((1, len(v)), -300.0).index_fill(1, torch.tensor([0]), 0.0)
        for f, v in LINKED.items()
    }
    assert torch.isfinite(join(certain)).all()


def test_the_join_reads_centred_log_probabilities():
    join = ContextJoin({"month": MONTH, "county": COUNTY}, width=3)
    logits = {"month": torch.randn(5, 2) * 4, "county": torch.randn(4, 5).T + 30}
    expected = []
    for feature, values in logits.items():
        centred = values.log_softmax(1) - values.log_softmax(1).mean(1, keepdim=True)
        spread = (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        expected.append(join.projections[feature](centred * (torch.log1p(spread) / spread)))
    assert torch.allclose(join(logits), torch.cat(expected, 1), atol=1e-5)
