import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from geoclip_core.errors import BackboneError
from geoclip_core.model.backbones import backbone_config, build_backbone, load_image_text
from geoclip_core.model.image_text import (
    LARGEST_SCALE,
    ClipPair,
    ImageTextModel,
    TextTower,
    build_tokenizer,
    tokenise,
)
from tests.model import tiny_networks

TEXTS = [
    "A street photo from Abilene, Taylor County, Texas, taken in July.",
    "A street photo from Boise, Ada County, Idaho, in a cold steppe climate.",
    "A street photo taken in December.",
]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_networks.write("resnet", tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(TEXTS)
    torch.manual_seed(0)
    tiny_networks.clip(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {"size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def _photos(count=4):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(count)
    ]


def _pair(network, seed=0, **changes):
    torch.manual_seed(seed)
    backbone = build_backbone(backbone_config(network, **changes))
    return ImageTextModel(backbone, TextTower.small(TEXTS), width=12).eval()


def test_the_tokenizer_is_made_offline_and_always_the_same():
    one, two = build_tokenizer(TEXTS), build_tokenizer(list(reversed(TEXTS)))
    assert one.get_vocab() == two.get_vocab()
    ids = one("A street photo from Abilene")["input_ids"]
    assert ids[0] == one.bos_token_id
    assert ids[-1] == one.eos_token_id
    assert one.decode(ids, skip_special_tokens=True).strip() == "a street photo from abilene"


def test_any_text_can_be_encoded():
    tokenizer = build_tokenizer(TEXTS)
    for text in ("Łódź", "東京", "emoji 🙂", "ZZZ qqq 12345"):
        ids = tokenizer(text)["input_ids"][1:-1]
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids).replace(" ", "") == text.lower().replace(" ", "")


def test_vectors_have_length_one_and_padding_does_not_matter(network):
    pair = _pair(network)
    together = pair.encode_tokens(pair.tokens(TEXTS))
    alone = torch.cat([pair.encode_tokens(pair.tokens([text])) for text in TEXTS])
    assert together.shape == (3, 12)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(together, alone, atol=1e-5)
    images = pair.encode_images(pair.backbone.preprocessing.batch(_photos()))
    assert torch.allclose(images.norm(dim=1), torch.ones(4), atol=1e-5)


def test_long_texts_are_truncated(network):
    pair = _pair(network)
    assert pair.tokens(["street " * 500])["input_ids"].shape[1] == 77


def test_the_temperature_is_clamped(network):
    pair = _pair(network)
    assert pair.scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    torch.nn.init.constant_(pair.log_scale, 50.0)
    assert pair.scale.item() == LARGEST_SCALE


def test_a_saved_pair_is_read_back_and_serves_as_a_backbone(network, tmp_path):
    pair = _pair(network, views=((32, 32), (32, 48)), depths=(1,))
    pair.save(tmp_path)
    again = load_image_text(tmp_path)
    batch = pair.backbone.preprocessing.batch(_photos())
    torch.testing.assert_close(again.encode_images(batch), pair.encode_images(batch))
    torch.testing.assert_close(
        again.encode_tokens(again.tokens(TEXTS)), pair.encode_tokens(pair.tokens(TEXTS))
    )
    plain = build_backbone(backbone_config(tmp_path, depths=(1,)))
    torch.testing.assert_close(plain.embed(batch), pair.backbone.embed(batch))
    projected = build_backbone(backbone_config(tmp_path, projection=True))
    assert projected.block_widths == (12, 12)
    views = projected.embed(batch).unflatten(1, (2, 12)).mean(1)
    assert torch.allclose(
        torch.nn.functional.normalize(views, dim=1), pair.encode_images(batch), atol=1e-5
    )
    other = build_backbone(backbone_config(tmp_path, views=((64, 64),)))
    assert other.preprocessing.views == ((64, 64),)
    rebuilt = build_backbone(
        projected.config, architecture=json.loads(json.dumps(projected.architecture()))
    )
    rebuilt.load_state_dict(projected.state_dict())
    torch.testing.assert_close(rebuilt.embed(batch), projected.embed(batch))
    assert projected.last_block()[-1] is projected.projection


def test_a_pretraining_of_an_earlier_version_is_read(network, tmp_path):
    pair = _pair(network, framing="crop")
    pair.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone"]["fit"] = config["backbone"].pop("framing")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_image_text(tmp_path).backbone.config.framing == "crop"
    assert build_backbone(tmp_path).preprocessing.framing == "crop"


def test_a_run_folder_means_its_checkpoint(network, tmp_path):
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    _pair(network).save(tmp_path / "run" / "checkpoint")
    assert backbone_config(tmp_path / "run").kind == "image-text"


def test_damaged_files_are_named(network, tmp_path):
    _pair(network).save(tmp_path)
    with pytest.raises(BackboneError, match="depths"):
        build_backbone(backbone_config(tmp_path, projection=True, depths=(0,)))
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(BackboneError, match=r"model\.safetensors"):
        build_backbone(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BackboneError, match="no image backbone"):
        build_backbone(tmp_path)


def test_a_text_model_folder_is_a_text_tower(tmp_path):
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "street", "photo", "texas", "july"]
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(tmp_path)
    tower = TextTower.pretrained(str(tmp_path)).eval()
    texts = (["street photo texas", "photo"], ["photo"])
    vectors, alone = (tower(tokenise(tower.tokenizer, t, tower.max_tokens)) for t in texts)
    assert vectors.shape == (2, 16)
    assert torch.allclose(vectors[1:], alone, atol=1e-5)
    with pytest.raises(BackboneError, match="needs no download"):
        TextTower.pretrained(str(tmp_path / "nothing"))


def test_clip_keeps_its_two_towers_and_its_files(clip_folder, tmp_path):
    pair = ClipPair(backbone_config(clip_folder)).eval()
    whole = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    batch, tokens = pair.backbone.preprocessing.batch(_photos()), pair.tokens(TEXTS)
    with torch.no_grad():
        output = whole(pixel_values=batch[0], **tokens)
        ours = pair.scale * pair.encode_images(batch) @ pair.encode_tokens(tokens).T
    assert torch.allclose(ours, output.logits_per_image, atol=1e-4)
    with torch.no_grad():
        pair.clip.visual_projection.weight.mul_(2)
    pair.save(tmp_path)
    again = ClipPair(backbone_config(tmp_path)).eval()
    torch.testing.assert_close(again.encode_images(batch), pair.encode_images(batch))
    assert again.backbone.preprocessing == pair.backbone.preprocessing
    tower = build_backbone(backbone_config(tmp_path, projection=True))
    assert torch.allclose(tower.embed(batch), pair.backbone.embed(batch), atol=1e-5)


def test_the_last_block_of_the_image_tower_can_be_trained_alone(clip_folder):
    pair = ClipPair(backbone_config(clip_folder))
    pair.backbone.set_trainable("last-block")
    learning = {n for n, p in pair.named_parameters() if p.requires_grad}
    assert any("vision_model.encoder.layers.1" in name for name in learning)
    assert not any("layers.0" in name or "text_model" in name for name in learning)
    assert any("visual_projection" in name for name in learning)


@pytest.mark.slow
def test_a_clip_without_its_text_tower_is_refused(clip_folder, tmp_path):
    transformers.CLIPVisionModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    with pytest.raises(BackboneError):
        ClipPair(backbone_config(tmp_path))
