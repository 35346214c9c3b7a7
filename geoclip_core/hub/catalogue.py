"""Models and backbones that can be downloaded: what each weighs, allows, and is good for."""

from dataclasses import dataclass
from typing import Literal

from geoclip_core.hub.geoclip_wheel import WHEEL_BYTES
from geoclip_core.model.geoclip_release import CLIP_REPOSITORY

Kind = Literal["model", "backbone"]

GEOCLIP = "geoclip"
TOWER_BYTES = 1_710_540_580


@dataclass(frozen=True)
class CatalogueEntry:
    """One thing that can be had."""

    name: str
    """What to type: a short name, or a repository on the hub."""
    kind: Kind
    """A "model" locates photos as it is; a "backbone" is what one trains heads on."""
    repository: str
    """Where on the hub its (larger) files are."""
    bytes: int
    """What is transferred, about; the exact size is asked for before a download."""
    licence: str
    good_for: str


CATALOGUE = (
    CatalogueEntry(
        GEOCLIP,
        "model",
        CLIP_REPOSITORY,
        WHEEL_BYTES + TOWER_BYTES,
        "MIT",
        "the whole world from one photo, with 100,000 candidate places (GeoCLIP, NeurIPS 2023); "
        "about 2 s a photo on two CPU cores, 2 GB of memory",
    ),
    CatalogueEntry(
        "openai/clip-vit-large-patch14",
        "backbone",
        "openai/clip-vit-large-patch14",
        TOWER_BYTES,
        "MIT",
        "the largest CLIP here: heads, and contrastive pretraining of photo and caption on a GPU",
    ),
    CatalogueEntry(
        "openai/clip-vit-base-patch16",
        "backbone",
        "openai/clip-vit-base-patch16",
        598_641_023,
        "MIT",
        "heads and contrastive pretraining with a fifth of the computing of ViT-L/14",
    ),
    CatalogueEntry(
        "facebook/dinov2-base",
        "backbone",
        "facebook/dinov2-base",
        346_345_912,
        "Apache-2.0",
        "heads on features that were learnt without captions: landscape, vegetation, buildings",
    ),
    CatalogueEntry(
        "facebook/dinov2-small",
        "backbone",
        "facebook/dinov2-small",
        88_249_112,
        "Apache-2.0",
        "the same, small enough to be trained whole on a laptop",
    ),
)


def catalogue_entry(name: str) -> CatalogueEntry | None:
    """The entry of a name, or None: anything else on the hub can be downloaded as well."""
    return next((entry for entry in CATALOGUE if entry.name == name), None)
