import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.earth.geocells import Geocells
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.geolocation import EmbeddingNormaliser, GeolocationModel, ModelConfig
from tests.sphere_points import fibonacci_sphere


def test_blocks_are_standardised_and_get_the_same_entry_size():
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 5 + 3
    normaliser = EmbeddingNormaliser((4, 3)).fit(rows)
    assert torch.allclose(normaliser.mean, rows.mean(0), atol=1e-5)
    out = normaliser(rows)
    assert torch.allclose(out[:, :4].norm(dim=1), torch.full((200,), 2.0), atol=1e-5)
    assert torch.allclose(out[:, 4:].norm(dim=1), torch.full((200,), 3**0.5), atol=1e-5)


def test_a_feature_that_is_constant_in_training_gives_finite_values():
    rows = torch.randn(50, 4)
    rows[:, 2] = 0.0
    normaliser = EmbeddingNormaliser((4,)).fit(rows)
    assert torch.isfinite(normaliser(torch.ones(1, 4))).all()
    assert torch.isfinite(normaliser(torch.zeros(1, 4))).all()


def test_half_precision_embeddings_are_read():
    normaliser = EmbeddingNormaliser((4,)).fit(torch.randn(9, 4))
    assert normaliser(torch.randn(2, 4).half()).dtype == torch.float32


def test_invalid_shapes_are_refused():
    with pytest.raises(ValueError, match="positive"):
        EmbeddingNormaliser((3, 0))
    with pytest.raises(ValueError, match=r"\(n, 5\)"):
        EmbeddingNormaliser((3, 2)).fit(torch.zeros(4, 6))


WIDTHS = (6, 4)
BACKBONE = BackboneConfig("tiny", "test")
WORDS = {
    "climate": Vocabulary("climate", ("Af", "BSk", "ET"), ("Af", "BSk", "ET")),
    "country": Vocabulary("country", ("CL", "FI"), ("Chile", "Finland")),
}
HEADS = {
    "regression": {},
    "geocells": {"cells": 12},
    "bank": {"bank_size": 30, "vote": "kernel-ridge"},
}


def _model(kind, use_context, context_heads="linear"):
    torch.manual_seed(0)
    options = {"bank_size": 30} if context_heads == "kernel-ridge" else {}
    config = ModelConfig(
        features=tuple(WORDS) if use_context else (),
        use_context=use_context,
        coordinate_head=kind,
        head_options=HEADS[kind],
        context_heads=context_heads,
        context_options=options if use_context else {},
    )
    model = GeolocationModel(config, BACKBONE, WIDTHS, WORDS, name="test")
    rows = torch.randn(30, 10)
    model.normaliser.fit(rows)
    if kind == "geocells":
        model.coordinate_head.start_from(fibonacci_sphere(50), Geocells(fibonacci_sphere(12)))
    if kind == "bank":
        if context_heads == "kernel-ridge" and use_context:
            model.context_heads.fit({"climate": np.arange(30) % 3, "country": np.arange(30) % 2})
        joined = torch.randn(30, model.coordinate_head.input_width)
        model.coordinate_head.fit(joined, fibonacci_sphere(30))
    return model.eval()


@pytest.mark.parametrize("use_context", [True, False])
@pytest.mark.parametrize("kind", ["regression", "geocells", "bank"])
def test_every_head_predicts_with_and_without_context(kind, use_context):
    model = _model(kind, use_context)
    estimates = model.predict(np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32))
    assert len(estimates) == 5
    for estimate in estimates:
        latitude, longitude = estimate.posterior.mode()
        assert -90 <= latitude <= 90
        assert -180 <= longitude < 180
        assert list(estimate.context) == (["climate", "country"] if use_context else [])
        for feature, probabilities in estimate.context.items():
            assert probabilities.shape == (len(WORDS[feature]),)
            assert probabilities.sum() == pytest.approx(1.0)


def test_context_in_closed_form_shares_the_bank():
    model = _model("bank", True, "kernel-ridge")
    assert model.predict(torch.randn(2, 10))[1].context["climate"].shape == (3,)
    assert sum("bank" in name for name in model.state_dict()) == 1


@pytest.mark.parametrize("kind", ["regression", "geocells"])
def test_context_reaches_the_coordinates_only_when_it_is_on(kind):
    embedding = torch.randn(3, 10)
    for use_context in (True, False):
        model = _model(kind, use_context)
        output = model(embedding)
        model.coordinate_head.loss(output.coordinates, torch.tensor([[1.0, 2.0]] * 3)).backward()
        gradients = [
            parameter.grad
            for name, parameter in model.named_parameters()
            if name.startswith("context")
        ]
        assert bool(gradients) is use_context
        if use_context:
            assert any(g is not None and g.abs().sum() > 0 for g in gradients)


def test_one_photo_is_predicted_as_it_is_in_a_batch():
    model = _model("geocells", True)
    rows = torch.randn(4, 10)
    batch, alone = model.predict(rows)[2], model.predict(rows[2:3])[0]
    assert batch.posterior.log_weights == pytest.approx(alone.posterior.log_weights, abs=1e-4)


def test_predicting_keeps_training_mode():
    model = _model("regression", True).train()
    model.predict(torch.randn(2, 10))
    assert model.training


def test_a_calibration_is_applied():
    model = _model("geocells", False)
    model.calibration = Calibration(3.0, 42.0)
    assert model.predict(torch.randn(1, 10))[0].posterior.bandwidth_km == 42.0


def test_invalid_configs_and_embeddings_are_refused():
    with pytest.raises(ValueError, match="geocells"):
        ModelConfig(features=("climate",), coordinate_head="cells")
    with pytest.raises(ValueError, match="kernel-ridge"):
        ModelConfig(features=("climate",), context_heads="forest")
    with pytest.raises(ValueError, match="switch it off"):
        ModelConfig(features=(), use_context=True)
    with pytest.raises(ValueError, match="'month'"):
        GeolocationModel(ModelConfig(features=("month",)), BACKBONE, WIDTHS, WORDS)
    with pytest.raises(ValueError, match=r"\(b, 10\)"):
        _model("regression", False).predict(torch.zeros(2, 11))


def test_a_config_survives_json():
    config = ModelConfig(("climate",), True, "bank", {"bank_size": 3}, "linear")
    assert ModelConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("kind", sorted(HEADS))
@pytest.mark.parametrize("context_heads", ["linear", "kernel-ridge"])
def test_a_given_class_replaces_what_its_head_reads(kind, context_heads):
    if context_heads == "kernel-ridge" and kind != "bank":
        return
    model = _model(kind, True, context_heads)
    if context_heads == "kernel-ridge":
        model.context_join.fit(model.context_heads.left_out_logits())
    embedding = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
    read = model.predict(embedding)
    for index in range(3):
        given = model.predict(embedding, {"climate": index})
        for before, after in zip(read, given, strict=True):
            assert after.context["climate"].argmax() == index
            assert after.context["climate"][index] > 0.999
            np.testing.assert_allclose(after.context["country"], before.context["country"])
    answers = [_answer(model.predict(embedding, {"climate": index})[0]) for index in range(3)]
    assert not np.allclose(answers[0], answers[1])
    off = model.predict(embedding, use_context=False)
    assert not np.allclose(_answer(off[0]), _answer(read[0]))
    # what the heads read no longer matters
    other = model.predict(embedding, {"climate": 2}, use_context=False)
    assert np.allclose(_answer(off[0]), _answer(other[0]))
    with pytest.raises(ValueError, match="no head for month"):
        model.predict(embedding, {"month": 1})


def _answer(estimate):
    """What the coordinate head says: a regression says it by its points, others by weights."""
    posterior = estimate.posterior
    return np.concatenate(
        [posterior.points.ravel(), posterior.log_weights, [posterior.bandwidth_km]]
    )
