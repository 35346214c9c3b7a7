"""Compare a query of the published GeoCLIP package with this one, on the same weights."""

import contextlib
import importlib
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from PIL import Image

from geoclip_core.geoclip.gallery import Gallery, encode_gallery, gallery_key
from geoclip_core.geoclip.model import GeoClip
from geoclip_core.geoclip.weights import read_release
from geoclip_core.hub.wheel import REQUIREMENT, convert_wheel, fetch_wheel
from geoclip_core.model.geoclip_image import GEOCLIP_IMAGE_CONFIG, GeoClipImage
from geoclip_core.model.transformers_backbone import empty_network
from geoclip_core.training.options import options_class

VIT_L_14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
"""Vision config of CLIP ViT-L/14, as far as it differs from transformers' default."""


@options_class
class GalleryOptions:
    """Options of `benchmark gallery`."""

    wheel: Path | None = None
    """the geoclip wheel; by default pip downloads it (35 MB)"""
    photo: Path | None = None
    """photo of the query; by default noise"""
    places: Annotated[int, Ge(0)] = 0
    """approximate number of gallery places to use; 0: all"""
    queries: Annotated[int, Ge(1)] = 3
    """repeats of our query, whose median is shown; the package's query runs once"""
    top_k: Annotated[int, Ge(1)] = 5
    """number of first places that must be the same"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the random weights of the image tower"""


def gallery(options: GalleryOptions) -> int:
    """Compare a query of the published GeoCLIP package with this one, on the same weights.

    The exit status is 1 if the two give different places.
    """
    result = benchmark_gallery(options)
    print(result.text())
    return 0 if result.equal_places else 1


@dataclass(frozen=True)
class GalleryBenchmark:
    """Times in seconds, and whether both sides give the same places."""

    places: int
    package_query: float
    """One photo through the package's `predict`, which encodes the gallery every time."""
    our_query: float
    """One photo through ours: image tower, product with the encoded gallery, exact ranking."""
    our_image: float
    """The image tower's part of `our_query`; the package's tower is the same."""
    encode_once: float
    """Encoding the gallery, once for all queries."""
    load: float
    """Reading the encoded gallery at a later start."""
    equal_places: bool
    """Whether the first `top_k` places are the same, in the same order."""
    probability_difference: float
    """Largest relative difference of their probabilities."""
    top_k: int

    def text(self) -> str:
        """Return a table for the terminal."""
        rows = [
            ("image tower, the same on both", self.our_image, self.our_image),
            ("gallery", self.package_query - self.our_image, self.our_query - self.our_image),
            ("whole query", self.package_query, self.our_query),
        ]
        same = "the same" if self.equal_places else "NOT THE SAME"
        return "\n".join(
            [
                f"one query, {self.places:,} places".ljust(32) + f"{REQUIREMENT:>15}{'ours':>11}",
                *(f"  {name:<30}{a:13.3f} s{b:9.3f} s" for name, a, b in rows),
                f"ours, once: encode the gallery {self.encode_once:.1f} s, "
                f"read it at a later start {self.load:.2f} s",
                f"first {self.top_k} places: {same}; probabilities differ by at most "
                f"{self.probability_difference:.1e} of themselves",
            ]
        )


def benchmark_gallery(
    options: GalleryOptions, tower: dict[str, Any] = VIT_L_14
) -> GalleryBenchmark:
    """Time a query on both sides, with the same random image tower.

    Args:
        options: options of the command.
        tower: vision config of the tower.

    Raises:
        DownloadError: no wheel is given and pip cannot download one.
    """
    with tempfile.TemporaryDirectory(prefix="gallery-") as scratch:
        folder = Path(scratch)
        source = options.wheel or fetch_wheel(folder)
        convert_wheel(source, folder / "release")
        release = read_release(folder / "release")
        step = max(1, len(release.coordinates) // options.places) if options.places else 1
        coordinates = release.coordinates[::step]
        path = options.photo or folder / "noise.png"
        if options.photo is None:
            noise = np.random.default_rng(options.seed).integers(0, 256, (512, 910, 3), np.uint8)
            Image.fromarray(noise).save(path)
        torch.manual_seed(options.seed)
        with published_package(source, folder / "package"):
            theirs = _package_model(tower)
            theirs.gps_gallery = theirs.gps_gallery[::step]
            started = time.perf_counter()
            expected, expected_probabilities = theirs.predict(str(path), top_k=options.top_k)
            package_query = time.perf_counter() - started
        backbone = _same_tower(theirs, release.image_mlp)
        started = time.perf_counter()
        encoded = encode_gallery(release.location_encoder, coordinates)
        encode_once = time.perf_counter() - started
        key, kept = gallery_key(release.location_encoder, coordinates), folder / "kept.safetensors"
        encoded.save(kept, key)
        started = time.perf_counter()
        loaded = Gallery.load(kept, key, release.location_encoder, coordinates)
        load = time.perf_counter() - started
        ours = GeoClip(backbone, loaded, release.logit_scale)
        image_times, query_times = [], []
        with torch.inference_mode():
            for _ in range(options.queries):
                started = time.perf_counter()
                with Image.open(path) as picture:
                    views = backbone.preprocessing.batch([picture.convert("RGB")])
                embedding = backbone.embed(views)
                image_times.append(time.perf_counter() - started)
                found, probabilities = ours.top_places(embedding, options.top_k)
                query_times.append(time.perf_counter() - started)
    difference = np.abs(probabilities[0] / expected_probabilities.double().numpy() - 1).max()
    return GalleryBenchmark(
        places=len(coordinates),
        package_query=package_query,
        our_query=float(np.median(query_times)),
        our_image=float(np.median(image_times)),
        encode_once=encode_once,
        load=load,
        equal_places=bool(np.allclose(found[0], expected.double().numpy(), atol=1e-5)),
        probability_difference=float(difference),
        top_k=options.top_k,
    )


@contextlib.contextmanager
def published_package(wheel: Path, folder: Path) -> Iterator[None]:
    """Make `geoclip.model` of the wheel importable inside the block.

    Empty modules with the same search path replace the package's __init__ files, which import its
    training code and so need torchvision.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for name in ("geoclip", "geoclip.model"):
        module = types.ModuleType(name)
        module.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n == "geoclip" or n.startswith("geoclip.")]:
            del sys.modules[name]


def _package_model(tower: dict[str, Any]) -> Any:
    """Return the package's model with a random tower and the published other weights."""
    from transformers import CLIPConfig, CLIPImageProcessorPil
    from transformers.utils import logging

    ends = {"bos_token_id": 0, "eos_token_id": 2}  # nosec B105
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = CLIPConfig(
        projection_dim=768,
        # as small as possible: the text tower of half a gigabyte is not used
        text_config={**text, "num_attention_heads": 1, "vocab_size": 8, **ends},
        vision_config=tower,
    )
    verbosity = logging.get_verbosity()
    # the import warns of a processor that needs torchvision; it is replaced below
    logging.set_verbosity_error()
    try:
        module = importlib.import_module("geoclip.model.image_encoder")
    finally:
        logging.set_verbosity(verbosity)
    vars(module).update(CLIPConfig=lambda **_: config, CLIPImageProcessor=CLIPImageProcessorPil)
    return importlib.import_module("geoclip.model.GeoCLIP").GeoCLIP(clip_pretrained=False).eval()


def _same_tower(theirs: Any, mlp: torch.nn.Sequential) -> GeoClipImage:
    """Return our image encoder with the weights of the package's tower."""
    clip = theirs.image_encoder.CLIP
    vision = {**clip.vision_model.config.to_dict(), "projection_dim": 768}
    with torch.device("meta"):
        tower = empty_network(vision, projection=True)
    tower.vision_model, tower.visual_projection = clip.vision_model, clip.visual_projection
    processor = theirs.image_encoder.image_processor
    pixels = {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
    return GeoClipImage(GEOCLIP_IMAGE_CONFIG, tower, mlp, pixels).eval()
