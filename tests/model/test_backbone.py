import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from geoclip_core.model.backbone import Backbone, BackboneConfig, Preprocessing


class Tiny(Backbone):
    def __init__(self, views=((32, 32), (32, 64))):
        super().__init__(BackboneConfig("tiny", "test"))
        self.preprocessing = Preprocessing(views)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.last = nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
        self.view_block_widths = (5, 4)
        self.eval()

    def features(self, pixels):
        inner = self.first(pixels)
        return torch.cat([self.last(inner).mean((2, 3)), inner.mean((2, 3))], dim=1)

    def last_block(self):
        return [self.last]


def _gradient(width, height):
    x = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray(np.broadcast_to(x, (height, width, 3)).astype(np.uint8))


def test_pixels_are_normalised_per_channel():
    white = Image.new("RGB", (100, 50), (255, 127, 0))
    prep = Preprocessing(((40, 60),), mean=(0.5, 0.5, 0.0), std=(0.5, 0.25, 1.0))
    (view,) = prep.pixels(white)
    assert view.shape == (3, 40, 60)
    assert view.dtype == torch.float32
    expected = torch.tensor([1.0, (127 / 255 - 0.5) / 0.25, 0.0])
    assert torch.allclose(view[:, 7, 11], expected, atol=1e-6)


def test_squash_keeps_the_whole_width_and_crop_its_centre():
    image = _gradient(400, 100)
    (squashed,) = Preprocessing(((50, 50),), mean=(0,) * 3, std=(1,) * 3).pixels(image)
    (cropped,) = Preprocessing(((50, 50),), "crop", (0,) * 3, (1,) * 3).pixels(image)
    assert squashed[0, 25, 0] < 0.02
    assert squashed[0, 25, -1] > 0.98
    # the centre square of 400 × 100 spans the columns 150 to 250
    assert 0.37 < cropped[0, 25, 0] < 0.39
    assert 0.61 < cropped[0, 25, -1] < 0.63


def test_grey_and_one_pixel_images_are_accepted():
    prep = Preprocessing(((32, 48), (64, 32)))
    views = prep.batch([Image.new("L", (1, 1), 200), Image.new("RGBA", (9, 3))])
    assert [tuple(view.shape) for view in views] == [(2, 3, 32, 48), (2, 3, 64, 32)]


def test_invalid_preprocessing_is_refused():
    with pytest.raises(ValueError, match="32 × 32"):
        Preprocessing(((16, 300),))
    with pytest.raises(ValueError, match="squash"):
        Preprocessing(((64, 64),), framing="stretch")
    with pytest.raises(ValueError, match="std above zero"):
        Preprocessing(((64, 64),), std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="at least one photo"):
        Preprocessing(((64, 64),)).batch([])


def test_configs_survive_json():
    prep = Preprocessing(((64, 48),), "crop", (0.1, 0.2, 0.3), (1, 2, 3), "bilinear")
    assert Preprocessing(**json.loads(json.dumps(asdict(prep)))) == prep
    config = BackboneConfig(
        "a/b", "transformers", ((64, 48),), "crop", (3, 1), "mean", True, "main"
    )
    assert BackboneConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_an_embedding_lists_head_and_depths_of_each_view():
    backbone = Tiny()
    assert backbone.block_widths == (5, 4, 5, 4)
    assert backbone.embedding_width == 18
    views = backbone.preprocessing.batch([_gradient(70, 40), _gradient(30, 90)])
    with torch.no_grad():
        embedding = backbone.embed(views)
        torch.testing.assert_close(embedding[:, 9:], backbone.features(views[1]))
    assert embedding.dtype == torch.float32
    with pytest.raises(ValueError, match="needs 2 views, got 1"):
        backbone.embed(views[:1])


@pytest.mark.parametrize(
    ("part", "first", "last"),
    [("all", True, True), ("last-block", False, True), ("none", False, False)],
)
def test_only_the_trained_part_has_gradients_and_changing_statistics(part, first, last):
    backbone = Tiny()
    backbone.set_trainable(part)
    backbone.train()
    assert all(p.requires_grad is first for p in backbone.first.parameters())
    assert all(p.requires_grad is last for p in backbone.last.parameters())
    before = [backbone.first[1].running_mean.clone(), backbone.last[1].running_mean.clone()]
    backbone.embed([torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 64)])
    after = [backbone.first[1].running_mean, backbone.last[1].running_mean]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [first, last]
    backbone.eval()
    assert not any(module.training for module in backbone.modules())


def test_an_unknown_part_to_train_is_refused():
    with pytest.raises(ValueError, match="last-block"):
        Tiny().set_trainable("most")


def test_the_hash_changes_with_any_weight():
    backbone = Tiny()
    before = backbone.weights_hash()
    assert before == backbone.weights_hash()
    assert len(before) == 16
    with torch.no_grad():
        backbone.last[1].running_var[2] += 1e-6
    assert backbone.weights_hash() != before
