import pytest
import torch
from PIL import Image

from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.efficientnet_lite import EfficientNetLite


def _config(**changes):
    return BackboneConfig("efficientnet-lite2", "efficientnet-lite", **changes)


@pytest.fixture(scope="module")
def backbone():
    return EfficientNetLite(_config(views=((96, 96), (64, 128)), depths=(20, 7)))


def test_block_widths_match_the_embedding(backbone):
    # block 20 has 352 channels, block 7 has 88; mean and standard deviation of each
    assert backbone.view_block_widths == (1280, 704, 176)
    assert backbone.block_widths == (1280, 704, 176) * 2
    with torch.inference_mode():
        embedding = backbone.embed([torch.randn(2, 3, 96, 96), torch.randn(2, 3, 64, 128)])
    assert embedding.shape == (2, backbone.embedding_width)
    assert torch.isfinite(embedding).all()


def test_computed_padding_equals_fixed_padding():
    from efficientnet_lite_pytorch import EfficientNet

    backbone = EfficientNetLite(_config())
    fixed = EfficientNet.from_name("efficientnet-lite2", image_size=[130, 90]).eval()
    weights = {f"_fc.{k}": v for k, v in fixed._fc.state_dict().items()}
    fixed.load_state_dict(backbone.network.state_dict() | weights)
    pixels = torch.randn(1, 3, 130, 90)
    with torch.inference_mode():
        wanted = fixed.extract_features(pixels).mean((2, 3))
        assert torch.allclose(backbone.features(pixels), wanted, atol=1e-4)


def test_pixels_are_scaled_as_these_weights_were_trained(backbone):
    views = backbone.preprocessing.pixels(Image.new("RGB", (50, 50), (0, 127, 255)))
    assert torch.allclose(views[0][:, 0, 0], torch.tensor([-127 / 128, 0.0, 1.0]), atol=1e-6)


def test_the_pretrained_weights_are_in_place():
    # Known answer of the ImageNet weights: a photo-like input must excite features that random
    # weights would not; the running statistics of a trained network are far from 0 and 1.
    pretrained = EfficientNetLite(_config())
    random = EfficientNetLite(_config(), pretrained=False)
    assert pretrained.weights_hash() == EfficientNetLite(_config()).weights_hash()
    assert pretrained.network._bn1.running_var.mean() > 1.5 or (
        pretrained.network._bn1.running_mean.abs().mean() > 0.1
    )
    assert float(random.network._bn1.running_mean.abs().max()) == 0.0


def test_mean_pooling_halves_the_depths():
    backbone = EfficientNetLite(_config(depths=(14,), depth_pooling="mean"), pretrained=False)
    assert backbone.view_block_widths == (1280, 120)


def test_unknown_names_and_depths_are_refused():
    with pytest.raises(ValueError, match="efficientnet-lite2"):
        EfficientNetLite(BackboneConfig("efficientnet-lite7", "efficientnet-lite"))
    with pytest.raises(ValueError, match="blocks 0 to 20, not 21"):
        EfficientNetLite(_config(depths=(3, 21)), pretrained=False)
    with pytest.raises(ValueError, match="twice"):
        EfficientNetLite(_config(depths=(3, 3)), pretrained=False)


def test_only_the_last_block_learns():
    backbone = EfficientNetLite(_config(), pretrained=False)
    backbone.set_trainable("last-block")
    learning = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning
    assert all(
        n.startswith(("network._blocks.20.", "network._conv_head", "network._bn1"))
        for n in learning
    )
