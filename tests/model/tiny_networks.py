"""Write tiny checkpoints in the format of real ones."""

import json
from pathlib import Path

import torch
import transformers

TRANSFORMER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
CLASSIFIERS = {
    "resnet": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    ),
    "efficientnet": lambda: transformers.EfficientNetForImageClassification(
        transformers.EfficientNetConfig(
            image_size=64,
            width_coefficient=0.1,
            depth_coefficient=0.1,
            hidden_dim=128,
            initializer_range=0.3,
        )
    ),
    "convnext": lambda: transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    ),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**TRANSFORMER)),
    "swin": lambda: transformers.SwinForImageClassification(
        transformers.SwinConfig(
            embed_dim=12, depths=[1, 1], num_heads=[2, 2], image_size=32, window_size=4
        )
    ),
    "dinov2": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            mlp_ratio=2,
        )
    ),
    "clip": lambda: clip(),
    "siglip": lambda: transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(**TRANSFORMER)
    ),
}
FAMILIES = tuple(CLASSIFIERS)


def clip(vocabulary: int = 600, positions: int = 40) -> transformers.CLIPModel:
    """Build a CLIP of two small towers."""
    text = {k: v for k, v in TRANSFORMER.items() if k not in ("image_size", "patch_size")}
    return transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=TRANSFORMER,
            text_config={
                **text,
                "vocab_size": vocabulary,
                "max_position_embeddings": positions,
                "bos_token_id": 0,
                "eos_token_id": 1,
                "pad_token_id": 1,
            },
            projection_dim=24,
        )
    )


def _fit_batch_norms(network: torch.nn.Module) -> None:
    """Set BatchNorm statistics from random pixels, because signals vanish in random networks."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            network.train()(pixel_values=torch.rand(8, 3, 64, 64))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def write(family: str, folder: Path, seed: int = 0, **preprocessing) -> Path:
    """Write a checkpoint of a family, as on the hub, with its preprocessing."""
    torch.manual_seed(seed)
    network = CLASSIFIERS[family]()
    _fit_batch_norms(network)
    network.save_pretrained(folder)
    settings = {"size": {"height": 32, "width": 32}, "do_normalize": True} | preprocessing
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
