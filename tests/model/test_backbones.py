import json

import numpy as np
import pytest
import torch
from PIL import Image

from geoclip_core.errors import BackboneError
from geoclip_core.model.backbones import BUNDLED, SUGGESTED, backbone_config, build_backbone
from geoclip_core.model.transformers_backbone import preprocessing_facts
from tests.model import tiny_networks


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    return {f: tiny_networks.write(f, root / f) for f in tiny_networks.FAMILIES}


def _photos(count=3, size=(90, 50)):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        for _ in range(count)
    ]


@pytest.mark.parametrize("family", tiny_networks.FAMILIES)
def test_family_runs_forward_and_backward(folders, family):
    backbone = build_backbone(folders[family])
    embedding = backbone.embed(backbone.preprocessing.batch(_photos()))
    assert embedding.shape == (3, backbone.embedding_width)
    assert torch.isfinite(embedding).all()
    assert (embedding[0] - embedding[1]).abs().max() > 0
    embedding.square().sum().backward()
    assert any(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("family", tiny_networks.FAMILIES)
def test_only_the_last_block_is_trained(folders, family):
    backbone = build_backbone(folders[family])
    names = {id(p): n for n, p in backbone.named_parameters()}
    own = {names[id(p)] for module in backbone.last_block() for p in module.parameters()}
    assert own
    assert len(own) < len(names)
    backbone.set_trainable("last-block")
    backbone.train()
    before = {n: v.clone() for n, v in backbone.state_dict().items()}
    learning = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        backbone.embed(backbone.preprocessing.batch(_photos())).square().mean().backward()
        optimizer.step()
    changed = {n for n, v in backbone.state_dict().items() if not torch.equal(v, before[n])}
    last = {n for n, p in backbone.named_parameters(remove_duplicate=False) if p.requires_grad}
    buffers = {n for n, _ in backbone.named_buffers()}
    assert changed - buffers <= last == own
    prefixes = tuple(
        name + "." for name, module in backbone.named_modules() if module in backbone.last_block()
    )
    assert all(n.startswith(prefixes) for n in changed & buffers)
    # at least one weight has changed, so the last block has parameters
    assert changed - buffers


@pytest.mark.parametrize("family", tiny_networks.FAMILIES)
def test_frozen_weights_stay_bit_identical(folders, family):
    backbone = build_backbone(folders[family])
    backbone.set_trainable("none")
    backbone.train()
    before = {n: v.clone() for n, v in backbone.state_dict().items()}
    backbone.embed(backbone.preprocessing.batch(_photos()))
    assert not any(p.requires_grad for p in backbone.parameters())
    assert all(torch.equal(v, before[n]) for n, v in backbone.state_dict().items())


@pytest.mark.parametrize("family", tiny_networks.FAMILIES)
def test_a_backbone_is_rebuilt_from_its_architecture(folders, family):
    backbone = build_backbone(folders[family])
    again = build_backbone(
        backbone.config, architecture=json.loads(json.dumps(backbone.architecture()))
    )
    again.load_state_dict(backbone.state_dict())
    batch = backbone.preprocessing.batch(_photos())
    assert again.preprocessing == backbone.preprocessing
    embedding = backbone.embed(batch)
    assert 0.01 < float(embedding.detach().abs().mean()) < 10, "vanished numbers show nothing"
    torch.testing.assert_close(again.eval().embed(batch), embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", tiny_networks.FAMILIES)
def test_other_views_and_inner_depths(folders, family):
    views = ((64, 96), (32, 32))
    backbone = build_backbone(backbone_config(folders[family], views=views, depths=(1, 0)))
    plain = build_backbone(backbone_config(folders[family], views=views))
    batch = backbone.preprocessing.batch(_photos())
    embedding = backbone.embed(batch)
    assert embedding.shape == (3, sum(backbone.block_widths))
    assert len(backbone.block_widths) == 2 * (len(plain.view_block_widths) + 2)
    width = sum(plain.view_block_widths)
    head = plain.embed(batch)[:, :width]
    torch.testing.assert_close(embedding[:, :width], head, rtol=1e-4, atol=1e-5)
    with pytest.raises(BackboneError, match="has blocks"):
        build_backbone(backbone_config(folders[family], depths=(99,)))


def test_clip_can_give_its_projection(folders):
    plain = build_backbone(folders["clip"])
    projected = build_backbone(backbone_config(folders["clip"], projection=True))
    assert plain.embedding_width == 32
    assert projected.embedding_width == 24
    whole = tiny_networks.transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    batch = plain.preprocessing.batch(_photos())
    with torch.no_grad():
        features = whole.get_image_features(pixel_values=batch[0])
        pooled = whole.vision_model(pixel_values=batch[0]).pooler_output
    assert torch.allclose(projected.embed(batch), features.pooler_output, atol=1e-5)
    assert torch.allclose(plain.embed(batch), pooled, atol=1e-5)
    with pytest.raises(BackboneError, match="projection"):
        build_backbone(backbone_config(folders["resnet"], projection=True))


def test_weights_come_from_the_file(folders):
    hashes = {build_backbone(folders["vit"]).weights_hash() for _ in range(2)}
    assert len(hashes) == 1


def test_facts_of_known_preprocessors():
    class Clip:
        model_type, image_size = "clip", 224

    settings = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    facts = preprocessing_facts(settings | {"do_center_crop": True, "resample": 3}, Clip())
    assert facts["size"] == [336, 336]
    assert facts["resample"] == "bicubic"
    assert facts["mean"][0] == pytest.approx(0.48145466)

    class EfficientNet:
        model_type, image_size = "efficientnet", 300

    facts = preprocessing_facts(
        {"include_top": True, "image_mean": [0.5] * 3, "image_std": [0.4] * 3}, EfficientNet()
    )
    assert facts["size"] == [300, 300]
    assert facts["std"] == pytest.approx([0.16] * 3)

    class Tensorflow:
        model_type, image_size = "mobilenet_v1", 224

    # 0-255 pixels, rescaled by 1/127.5 and then moved by 1
    facts = preprocessing_facts(
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, Tensorflow()
    )
    assert facts["mean"] == pytest.approx([0.5] * 3)
    assert facts["std"] == pytest.approx([0.5] * 3)
    assert preprocessing_facts({}, Tensorflow())["mean"] == [0.485, 0.456, 0.406]


def test_a_text_model_is_refused(tmp_path):
    config = tiny_networks.transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    tiny_networks.transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="not an image model"):
        build_backbone(tmp_path)


def test_missing_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_networks.write("resnet", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if "stages.1" not in n}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="lacks"):
        build_backbone(folder)


@pytest.mark.parametrize("name", ["", "nonsense", "./nowhere/at/all", "/no/such/folder"])
def test_unknown_names_are_refused(name):
    with pytest.raises(BackboneError, match="efficientnet-lite2"):
        backbone_config(name)


def test_the_error_without_a_hub_names_the_bundled_backbone(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="efficientnet-lite2, which is bundled"):
        build_backbone("some-owner/some-model-that-is-not-cached")


def test_suggested_names_are_accepted_and_one_is_bundled():
    assert all(backbone_config(name).name == name for name in SUGGESTED)
    assert set(SUGGESTED) & set(BUNDLED) == {"efficientnet-lite2"}


@pytest.mark.parametrize("family", ["resnet", "clip"])
def test_a_batch_is_split_on_a_cpu(folders, family, monkeypatch):
    backbone = build_backbone(backbone_config(folders[family], views=((32, 32), (32, 64))))
    views = [torch.randn(5, 3, h, w) for h, w in backbone.preprocessing.views]
    sizes = []
    features = type(backbone).features
    monkeypatch.setattr(
        type(backbone), "features", lambda self, x: sizes.append(len(x)) or features(self, x)
    )
    with torch.no_grad():
        whole = backbone.embed(views)
        monkeypatch.setattr("geoclip_core.model.backbone.CPU_PIXELS", 2 * 32 * 32)
        parts = backbone.embed(views)
    assert sizes == [5, 5, 2, 2, 1, 1, 1, 1, 1, 1]
    assert torch.allclose(parts, whole, atol=1e-5)
    sizes.clear()
    backbone.embed(views)
    assert sizes == [5, 5]  # with gradients, the batch is not split
