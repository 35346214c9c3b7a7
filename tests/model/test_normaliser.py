import pytest
import torch

from geoclip_core.model.normaliser import EmbeddingNormaliser


def test_blocks_are_standardised_and_get_the_same_entry_size():
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 5 + 3
    normaliser = EmbeddingNormaliser((4, 3)).fit(rows)
    assert torch.allclose(normaliser.mean, rows.mean(0), atol=1e-5)
    out = normaliser(rows)
    assert torch.allclose(out[:, :4].norm(dim=1), torch.full((200,), 2.0), atol=1e-5)
    assert torch.allclose(out[:, 4:].norm(dim=1), torch.full((200,), 3**0.5), atol=1e-5)


def test_a_feature_that_never_fired_does_not_drown_the_rest():
    rows = torch.randn(50, 4)
    rows[:, 2] = 0.0
    normaliser = EmbeddingNormaliser((4,)).fit(rows)
    assert torch.isfinite(normaliser(torch.ones(1, 4))).all()
    assert torch.isfinite(normaliser(torch.zeros(1, 4))).all()


def test_half_precision_embeddings_are_read():
    normaliser = EmbeddingNormaliser((4,)).fit(torch.randn(9, 4))
    assert normaliser(torch.randn(2, 4).half()).dtype == torch.float32


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="positive"):
        EmbeddingNormaliser((3, 0))
    with pytest.raises(ValueError, match=r"\(n, 5\)"):
        EmbeddingNormaliser((3, 2)).fit(torch.zeros(4, 6))
