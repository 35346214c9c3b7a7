"""A small GeoCLIP with random weights on disk, and the published wheel where pip can fetch it."""

import functools
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from geoclip_core.errors import DownloadError
from geoclip_core.geoclip.gallery import DEFAULT_SIGMAS
from geoclip_core.geoclip.weights import release_config
from geoclip_core.hub.wheel import fetch_wheel


def make_clip(folder: Path, projection: int = 48, side: int = 56, seed: int = 0) -> Path:
    """Write a whole CLIP (both towers) in the layout of transformers."""
    torch.manual_seed(seed)
    config = CLIPConfig(
        projection_dim=projection,
        text_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 50,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 14,
            "image_size": side,
        },
    )
    CLIPModel(config).save_pretrained(folder)
    preprocessor = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def random_coordinates(count: int, seed: int = 0) -> np.ndarray:
    """Return coordinates (count, 2) in degrees, uniform on the sphere."""
    rng = np.random.default_rng(seed)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    return np.round(np.stack([latitude, rng.uniform(-180, 180, count)], axis=1), 6)


def make_release(
    folder: Path, places: int = 300, projection: int = 48, width: int = 32, seed: int = 0
) -> Path:
    """Write a GeoCLIP release without its image tower."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"image_encoder.mlp.0": (40, projection), "image_encoder.mlp.2": (width, 40)}
    tensors = {"logit_scale": torch.tensor(3.0)}
    for branch, sigma in enumerate(DEFAULT_SIGMAS):
        prefix = f"location_encoder.LocEnc{branch}"
        tensors[f"{prefix}.capsule.0.b"] = torch.randn(16, 2) * sigma
        for layer, inputs in ((1, 32), (3, 24), (5, 24)):
            shapes[f"{prefix}.capsule.{layer}"] = (24, inputs)
        shapes[f"{prefix}.head.0"] = (width, 24)
    for name, (rows, columns) in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(rows, columns) / columns**0.5
        tensors[f"{name}.bias"] = torch.randn(rows) / 10
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(release_config()))
    table = pd.DataFrame(random_coordinates(places, seed), columns=["LAT", "LON"])
    table.to_csv(folder / "coordinates_100K.csv", index=False)
    return folder


def make_geoclip(folder: Path, places: int = 300, seed: int = 0) -> Path:
    """Write a complete small GeoCLIP: release and image tower in one folder."""
    make_release(folder, places=places, seed=seed)
    make_clip(folder / "image_tower", seed=seed)
    return folder


@functools.cache
def _fetched_wheel() -> Path | DownloadError:
    folder = tempfile.mkdtemp(prefix="geoclip-wheel-")
    try:
        return fetch_wheel(Path(folder))
    except DownloadError as error:
        return error


def published_wheel() -> Path:
    """Return the wheel, fetched once a session; skip the test if it cannot be, but fail in CI."""
    wheel = _fetched_wheel()
    if isinstance(wheel, DownloadError):
        if os.environ.get("CI"):
            raise wheel
        pytest.skip(f"the published wheel cannot be fetched: {wheel}")
    return wheel
