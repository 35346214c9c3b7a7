"""`pretrain`: towers, captions, and their evaluation."""

import json

import numpy as np
import pytest
import torch

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.vocabulary import build_vocabularies, climate_vocabulary, month_vocabulary
from geoclip_core.model import image_text
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.checkpoint import load_checkpoint
from geoclip_core.model.image_text import build_tokenizer
from geoclip_core.training.options import OptionsError, PretrainOptions, from_mapping
from geoclip_core.training.pretrain import EpochCaptions, PairEvaluator, class_captions
from tests.model import tiny_networks
from tests.training import tiny_photos
from tests.training.tiny_training import run_fit, run_pretrain


@pytest.fixture(scope="module", autouse=True)
def small_text_tower():
    """A text tower of a quarter of the usual width, which learns the few captions as well."""
    with pytest.MonkeyPatch.context() as patch:
        small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        patch.setattr(image_text, "_SMALL_CONFIG", image_text._SMALL_CONFIG | small)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_photos.write(tmp_path_factory.mktemp("photos"), train=220, test=40)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_networks.write("resnet", tmp_path_factory.mktemp("resnet"), seed=1)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, data, network):
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    return run_pretrain(
        folder,
        data,
        network,
        epochs=8,
        learning_rate=0.005,
        backbone_learning_rate=0.005,
        augment=0.3,
    )


@pytest.mark.slow
def test_pretraining_brings_photos_and_captions_together(pretrained):
    assert pretrained.status.state == "finished", pretrained.status.error
    report = json.loads((pretrained.folder / "metrics.json").read_text())
    assert report["val"]["loss"] < pretrained.metrics()[0]["train/loss"]
    assert report["val"]["retrieval"]["image_to_text"] > 2 / 16
    assert report["test"]["retrieval"]["among"] == 16
    state = report["test"]["zero_shot"]["state"]
    assert state["top1"] > state["majority"]
    assert report["about"]["synthetic"] is False


@pytest.mark.slow
def test_only_the_last_block_of_the_image_tower_is_trained(pretrained, network):
    before, after = build_backbone(network), build_backbone(pretrained.folder)
    before.set_trainable("last-block")
    learning = {n for n, p in before.named_parameters() if p.requires_grad}
    old, new = before.state_dict(), after.inner.state_dict()
    changed = {n for n in old if not torch.equal(old[n], new[n])}
    assert changed
    assert changed <= learning


@pytest.mark.slow
@pytest.mark.parametrize("projection", [False, True])
def test_a_pretrained_tower_is_a_backbone_for_fit(pretrained, data, tmp_path, projection):
    run = run_fit(tmp_path / "run", data, pretrained.folder, projection=projection, epochs=3)
    assert run.status.state == "finished", run.status.error
    model = load_checkpoint(run.checkpoint)
    assert model.embedding_width == 16
    # the checkpoint holds the pretrained tower: its folder may go
    again = model.backbone.state_dict()
    wanted = build_backbone(pretrained.folder).state_dict()
    assert all(torch.equal(again[n], wanted[n]) for n in wanted)
    assert str(pretrained.folder) not in (run.checkpoint / "config.json").read_text()


@pytest.mark.slow
def test_a_frozen_image_tower_learns_from_cached_embeddings(data, network, tmp_path):
    run = run_pretrain(tmp_path / "run", data, network, train_backbone="none", epochs=3)
    assert run.status.state == "finished", run.status.error
    before, after = build_backbone(network).state_dict(), build_backbone(run.folder).state_dict()
    assert all(torch.equal(before[n], after[f"inner.{n}"]) for n in before)
    losses = [row["train/loss"] for row in run.metrics() if "train/loss" in row]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_clip_checkpoint_trains_its_own_two_towers(data, tmp_path):
    import transformers

    folder = tmp_path / "clip"
    dataset = read_dataset(data)
    from geoclip_core.data.captions import captions

    tokenizer = build_tokenizer(captions(dataset.table))
    torch.manual_seed(0)
    tiny_networks.clip(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 32, "width": 32}})
    )
    for train, text in (("last-block", True), ("all", False)):
        run = run_pretrain(
            tmp_path / f"run-{text}", data, folder, train_backbone=train, train_text=text, epochs=1
        )
        assert run.status.state == "finished", run.status.error
        before = transformers.CLIPModel.from_pretrained(folder).state_dict()
        after = transformers.CLIPModel.from_pretrained(run.checkpoint).state_dict()
        changed = {n for n in before if not torch.equal(before[n], after[n])}
        assert any(n.startswith("text_model") for n in changed) is text
        assert "logit_scale" in changed
        assert "vision_model.encoder.layers.1.mlp.fc1.weight" in changed
        lower = "vision_model.encoder.layers.0.mlp.fc1.weight"
        assert (lower in changed) is (train == "all")
        fitted = run_fit(tmp_path / f"fit-{text}", data, run.folder, projection=True, epochs=1)
        assert fitted.status.state == "finished", fitted.status.error


@pytest.mark.slow
def test_a_pretraining_can_be_continued_on_other_photos(pretrained, data, tmp_path):
    run = run_pretrain(tmp_path / "run", data, pretrained.folder, epochs=1)
    assert run.status.state == "finished", run.status.error
    refused = run_pretrain(tmp_path / "other", data, pretrained.folder, views=("64x64",))
    assert "cannot be changed" in refused.status.error


def test_captions_depend_only_on_seed_epoch_and_row(data):
    train = read_dataset(data).split("train")
    options = PretrainOptions(data=data)
    one, two = EpochCaptions(train.table, options), EpochCaptions(train.table, options)
    assert one.of(3, [5, 1, 9]) == two.of(3, [5, 1, 9])
    assert one.of(3, [9]) == one.of(3, [5, 1, 9])[2:]
    assert one.of(3, range(20)) != one.of(4, range(20))
    single = [text for text in one.of(0, range(len(train))) if "," not in text]
    assert 0.15 < len(single) / len(train) < 0.5
    assert "A street photo." not in one.of(0, range(len(train)))


def test_class_captions_mention_only_the_class():
    assert class_captions(month_vocabulary())[6] == "A street photo taken in July."
    climates = class_captions(climate_vocabulary())
    assert len(climates) == 30
    assert "steppe" in climates[climate_vocabulary().keys.index("BSk")]


class _Perfect:
    """Encodes a photo and a text to the same vector if they say the same."""

    scale = torch.tensor(10.0)

    def __init__(self):
        self.numbers = {}

    def number(self, text):
        """A number of its own for every text."""
        return self.numbers.setdefault(text, len(self.numbers))

    def eval(self):
        return self

    def tokens(self, texts):
        return {"input_ids": torch.tensor([[self.number(text)] for text in texts])}

    def encode_tokens(self, tokens):
        return torch.nn.functional.one_hot(tokens["input_ids"][:, 0], 997).float()

    def encode_embedding(self, embedding):
        return torch.nn.functional.one_hot(embedding[:, 0].long(), 997).float()


def test_retrieval_and_zero_shot_of_a_perfect_pair(data):
    photos = read_dataset(data).split("train")
    vocabularies = build_vocabularies(photos.table, ("state",))
    evaluator = PairEvaluator(photos, lambda: None, vocabularies, ("state",), seed=0)
    pair = _Perfect()
    vectors = np.array([[pair.number(text)] for text in evaluator.captions], dtype=np.float32)
    evaluator.embeddings = lambda: vectors
    report = evaluator.measure(pair)
    assert report["retrieval"]["image_to_text"] == 1.0
    assert report["zero_shot"]["state"]["top1"] == 1.0
    shares = photos.table["state"].value_counts(normalize=True)
    assert report["zero_shot"]["state"]["majority"] == pytest.approx(shares.max())
    # one photo is unreadable: it is left out, the others stay with their captions
    broken = vectors.copy()
    broken[3] = np.nan
    evaluator.embeddings = lambda: broken
    report = evaluator.measure(pair)
    assert report["n"] == len(photos) - 1
    assert report["zero_shot"]["state"]["top1"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size"),
        ({"accumulation": 2}, "accumulation"),
        ({"features": ()}, "captions"),
        ({"features": ("weather",)}, "weather"),
        ({"drop_probability": 1.0}, "drop_probability"),
        ({"width": 1}, "width"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(OptionsError, match=message):
        from_mapping(PretrainOptions, options, "test")
