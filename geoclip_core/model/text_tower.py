"""Text towers for contrastive pretraining: a small one made on the spot, or any text model."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoclip_core.model.transformers_loading import BackboneError, quietly, source_of

SMALL = "small"
START, END = "<|startoftext|>", "<|endoftext|>"
_SMALL_CONFIG = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "attention_dropout": 0.0,
    "max_position_embeddings": 77,
}


def tokenise(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> dict[str, Tensor]:
    """Token ids and mask, (b, t) each, with t ≤ `max_tokens`: longer texts are cut."""
    encoded = tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def build_tokenizer(texts: Iterable[str], vocabulary_size: int = 4096) -> Any:
    """A CLIP tokenizer whose byte pairs are learnt from texts; nothing is downloaded.

    Normalisation, splitting and special tokens are CLIP's (Radford et al., 2021). Every byte has a
    token, so that any text can be written.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    template = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [letter + "</w>" for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        # named beforehand, endings have fixed numbers; by themselves they get them by chance, and
        # ties between pairs are broken by number
        special_tokens=[START, END, *endings],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(sorted(set(texts)), trainer)
    learnt = json.loads(learner.to_str())["model"]
    words = dict(learnt["vocab"])
    merges = [tuple(pair) for pair in learnt["merges"]]
    return CLIPTokenizer(vocab=words, merges=merges, model_max_length=77)


class TextTower(nn.Module):
    """A text model of transformers and its tokenizer: texts in, one vector (b, width) out.

    CLIP text models are read at their end token; others as the mean over the tokens of a text.
    """

    def __init__(self, network: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        config = network.config
        self.width = int(config.hidden_size)
        limit = int(getattr(config, "max_position_embeddings", 77) or 77)
        self.max_tokens = min(limit, 128)

    @property
    def description(self) -> dict[str, Any]:
        """The network's config (JSON types), from which `empty` builds it again."""
        return self.network.config.to_dict()

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (b, t) each; longer texts are cut."""
        return tokenise(self.tokenizer, texts, self.max_tokens)

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Tokens (b, t) -> vectors (b, width)."""
        output = self.network(**tokens)
        if self.network.config.model_type == "clip_text_model":
            return output.pooler_output
        mask = tokens["attention_mask"][..., None].to(output.last_hidden_state)
        return (output.last_hidden_state * mask).sum(1) / mask.sum(1).clamp_min(1)

    @classmethod
    def small(cls, texts: Iterable[str]) -> "TextTower":
        """A three-layer CLIP text model with random weights and a tokenizer of these texts."""
        from transformers import CLIPTextConfig, CLIPTextModel

        tokenizer = build_tokenizer(texts)
        ids = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        config = CLIPTextConfig(vocab_size=len(tokenizer), **_SMALL_CONFIG, **ids)
        return cls(CLIPTextModel(config), tokenizer)

    @classmethod
    @quietly()
    def pretrained(cls, name: str) -> "TextTower":
        """Any text model by hub id or folder.

        Raises:
            BackboneError: it cannot be read.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel

        source, where = source_of(name)
        try:
            whole = AutoConfig.from_pretrained(source, **where)
            kind = CLIPTextModel if whole.model_type == "clip" else AutoModel
            config = whole.text_config if whole.model_type == "clip" else whole
            network = kind.from_pretrained(source, config=config, dtype=torch.float32, **where)
            return cls(network, AutoTokenizer.from_pretrained(source, **where))
        except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(
                f"text model {name!r} cannot be loaded: {reason} Without internet use "
                f"{SMALL!r}, which is made on the spot, or the folder of a downloaded model"
            ) from error

    @classmethod
    @quietly()
    def empty(cls, description: dict[str, Any], tokenizer_folder: Path) -> "TextTower":
        """The tower of a description with random weights, and a saved tokenizer."""
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel

        values = dict(description)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        clip = config.model_type == "clip_text_model"
        network = CLIPTextModel(config) if clip else AutoModel.from_config(config)
        return cls(network, AutoTokenizer.from_pretrained(tokenizer_folder))
