"""Compute the embeddings of a dataset once and keep them, for trainings and evaluations to come.

A command that was interrupted goes on where it was when it is given again.
"""

from geoclip_core.training.options import EmbedOptions

Options = EmbedOptions


def run(options: EmbedOptions) -> int:
    """Embed all photos of the dataset and say where they are."""
    import torch

    from geoclip_core.data.dataset import read_dataset
    from geoclip_core.model.backbones import build_backbone
    from geoclip_core.training.embeddings import EmbeddingCache, embed_dataset
    from geoclip_core.training.fit import fit_backbone
    from train.progress import ProgressBar

    dataset = read_dataset(options.dataset_folder())
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = build_backbone(fit_backbone(options), device)
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
