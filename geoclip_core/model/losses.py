"""Losses of the two training loops. Rows labelled `IGNORE_INDEX` add nothing to a loss."""

import torch
from torch import Tensor
from torch.nn import functional

from geoclip_core.data.vocabulary import IGNORE_INDEX
from geoclip_core.earth.sphere import EARTH_RADIUS_KM, unit_vectors


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the cross entropies of logits (b, C) in the rows with labels (b,).

    It is a sum because a batch that is spread over processes or accumulation steps must be divided
    by the count of the whole batch, not of its parts.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    known = labels != IGNORE_INDEX
    index = labels.clamp_min(0)
    # torch's own would copy logits that are stored class by class, forwards and backwards
    if logits.T.is_contiguous():
        right = logits.T.gather(0, index[None])[0]
    else:
        right = logits.gather(1, index[:, None])[:, 0]
    return (torch.logsumexp(logits, dim=1) - right).masked_fill(~known, 0.0).sum()


def log_priors(labels: Tensor, classes: int) -> Tensor:
    """Return the log share (C,) of each class among labels (n,), counting one extra row each."""
    known = labels[labels != IGNORE_INDEX]
    counts = torch.bincount(known, minlength=classes).double() + 1.0
    return (counts / counts.sum()).log().float()


def balanced_logits(logits: Tensor, priors: Tensor, strength: float) -> Tensor:
    """Adjust logits (b, C) for the loss by log priors (C,), so that rare classes are not neglected.

    Adds `strength` × log prior (logit adjustment, Menon et al., ICLR 2021, eq. 10): 0 is the plain
    loss, 1 aims at the same recall for every class.
    """
    return logits if strength == 0 else logits + strength * priors.to(logits)


def distance_smoothed_targets(distances_km: Tensor, tau_km: float) -> Tensor:
    """Return target distributions over cells (b, k) from distances (b, k) to their centres.

    They are ∝ exp(−(d − d_min) / τ) and sum to 1, unlike the haversine smoothing of PIGEON (Haas et
    al., CVPR 2024, eq. 2). With τ ≤ 0, the nearest cell gets all.
    """
    if tau_km <= 0:
        return functional.one_hot(distances_km.argmin(1), distances_km.shape[1]).to(distances_km)
    return torch.softmax(-distances_km / tau_km, dim=1)


def distance_smoothed_cross_entropy(logits: Tensor, distances_km: Tensor, tau_km: float) -> Tensor:
    """Return the mean cross entropy of cell logits (b, k) against targets smoothed by distance.

    The distances (b, k) are those of the true places to the centres of the cells.
    """
    with torch.no_grad():
        targets = distance_smoothed_targets(distances_km, tau_km).to(logits.dtype)
    # the targets sum to one
    return (torch.logsumexp(logits, dim=1) - (targets * logits).sum(1)).mean()


def great_circle_km(vectors: Tensor, coordinates: Tensor) -> Tensor:
    """Return distances (b,) in km of directions (b, 3), of any length, from coordinates (b, 2)."""
    truth = unit_vectors(coordinates).to(vectors)
    cross = torch.linalg.cross(vectors, truth, dim=-1)
    squared = (cross * cross).sum(-1)
    # the root has no finite gradient at 0, where the prediction is exact
    sine = torch.where(squared > 0, squared.clamp_min(1e-20).sqrt(), squared)
    return EARTH_RADIUS_KM * torch.atan2(sine, (vectors * truth).sum(-1))


def contrastive_loss(
    images: Tensor, texts: Tensor, scale: Tensor | float, positives: Tensor
) -> Tensor:
    """Return the symmetric contrastive loss of photos and captions.

    Each photo is classified among all captions, and vice versa (CLIP, Radford et al., 2021). If a
    row has several positives, such as photos with the same caption, the target is spread evenly
    over them (SupCon, Khosla et al., 2020, eq. 2).

    Args:
        images: (n, P), of length 1.
        texts: (n, P), of length 1; row i belongs to photo i.
        scale: inverse temperature.
        positives: (n, n) boolean, photo × caption; true on the diagonal.

    Raises:
        ValueError: the shapes differ, or the diagonal of `positives` is not all true.
    """
    if images.shape != texts.shape:
        raise ValueError(f"{tuple(images.shape)} photos and {tuple(texts.shape)} captions differ")
    logits = scale * images @ texts.T
    if not bool(positives.diagonal().all()):
        raise ValueError("each photo must be a positive of its own caption")
    targets = positives.to(logits.dtype)
    by_photo = targets / targets.sum(1, keepdim=True)
    by_caption = targets / targets.sum(0, keepdim=True)
    photo_loss = -(by_photo * torch.log_softmax(logits, dim=1)).sum(1).mean()
    caption_loss = -(by_caption * torch.log_softmax(logits, dim=0)).sum(0).mean()
    return (photo_loss + caption_loss) / 2
