"""Compute the embeddings of a dataset once and keep them, for trainings and evaluations to come.

A command that was interrupted goes on where it was when it is given again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from geoclip_core.training.options import TrainingOptions, view_sizes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which photos, and by which backbone; as in `fit`, so that it finds them."""

    COMMAND: ClassVar[str] = "embed"

    data: Path
    """dataset folder (OSV-Mini-129k, a demo set, imported photos)"""
    backbone: str = TrainingOptions.backbone
    """efficientnet-lite2 (bundled), a hub id such as openai/clip-vit-base-patch32, the folder of a
    transformers model, or the run folder of a pretraining"""
    views: tuple[str, ...] = ()
    """HEIGHTxWIDTH of each view of a photo, such as 260x260; none: the backbone's own size"""
    fit: Literal["squash", "crop"] = TrainingOptions.fit
    """whether the whole frame is squashed into a view, or its centre cropped to the same shape"""
    depths: tuple[int, ...] = ()
    """inner blocks of the backbone whose pooled features join those of its end, such as 7 14 20"""
    depth_pooling: Literal["mean", "mean-std"] = "mean-std"
    """what is kept of an inner block: its mean, or mean and standard deviation"""
    projection: bool = False
    """use the projected embedding of a CLIP tower or of a pretrained backbone"""
    engine: Literal["auto", "torch", "onnx"] = "auto"
    """what runs the network; auto takes ONNX Runtime on a CPU where it agrees with torch"""
    batch_size: int = 32
    """photos that go through the network together"""
    workers: int = TrainingOptions.workers
    """threads that read photos"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute; auto takes a GPU if there is one"""
    cache_dir: Path | None = None
    """where embeddings are kept; by default the platform's cache folder"""

    def __post_init__(self) -> None:
        view_sizes(self.views)
        if self.batch_size < 1 or self.workers < 1:
            raise ValueError("batch_size and workers must be at least 1")


def run(options: Options) -> int:
    """Embed all photos of the dataset and say where they are."""
    import torch

    from geoclip_core.data.dataset import read_dataset
    from geoclip_core.model.backbones import build_backbone
    from geoclip_core.training.embeddings import EmbeddingCache, embed_dataset
    from geoclip_core.training.fit import fit_backbone
    from geoclip_core.training.options import FitOptions
    from train.progress import ProgressBar

    dataset = read_dataset(options.data)
    same = ("data", "backbone", "views", "fit", "depths", "depth_pooling", "projection")
    config = fit_backbone(FitOptions(**{name: getattr(options, name) for name in same}))
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = build_backbone(config, device)
    with ProgressBar("embedding", "photos") as bar:
        embedded = embed_dataset(
            backbone,
            dataset,
            options.cache_dir,
            batch_size=options.batch_size,
            workers=options.workers,
            engine=options.engine,
            progress=bar.update,
        )
    place = EmbeddingCache(backbone, dataset, options.cache_dir).place
    print(f"{len(dataset):,} photos, {backbone.embedding_width:,} numbers each, in {place}")
    for row, reason in list(embedded.failures.items())[:20]:
        print(f"unreadable: {dataset.table['path'].iloc[row]}: {reason}")
    if len(embedded.failures) > 20:
        print(f"unreadable: {len(embedded.failures)} photos in all")
    return 0
