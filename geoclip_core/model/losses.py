"""Losses of the two training loops, each in units that a person can check by hand.

Rows whose label is missing carry ``IGNORE_INDEX``: they add nothing to a sum and nothing to its
denominator. Every loss offers ``reduction="sum"``, because a batch that is spread over processes
or accumulation steps must be divided by the count of the whole batch, not of its parts.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from geoclip_core.data.vocabulary import IGNORE_INDEX
from geoclip_core.earth.sphere import EARTH_RADIUS_KM, pairwise_km, unit_vectors

Reduction = Literal["mean", "sum"]


def masked_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy over the rows that have a label.

    Args:
        logits: (b, C), or log-probabilities, for which the softmax is the identity.
        labels: (b,) class indices, ``IGNORE_INDEX`` where unknown.
        class_weights: (C,) weight of each true class.
        reduction: "mean" divides by :func:`label_weight` of the labels.

    Returns:
        Scalar; 0 (with zero gradient) if no row has a label.
    """
    total = functional.cross_entropy(
        logits, labels, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    if reduction == "sum":
        return total
    return total / label_weight(labels, class_weights).clamp_min(torch.finfo(total.dtype).tiny)


def label_weight(labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """The denominator of a mean over labelled rows: their number, or the sum of their weights."""
    known = labels != IGNORE_INDEX
    if class_weights is None:
        return known.sum()
    return class_weights[labels[known]].sum()


def log_priors(labels: Tensor, classes: int) -> Tensor:
    """Logarithm of each class's share (C,) among labelled rows, with one extra row per class."""
    known = labels[labels != IGNORE_INDEX]
    counts = torch.bincount(known, minlength=classes).double() + 1.0
    return (counts / counts.sum()).log().float()


def balanced_logits(logits: Tensor, priors: Tensor, strength: float) -> Tensor:
    """Logits (b, C) to train on so that rare classes are not drowned by common ones.

    Adds ``strength`` × log prior in the loss only (logit adjustment, Menon et al., ICLR 2021,
    eq. 10): 0 is the plain loss, 1 aims at the same recall for every class.
    """
    return logits if strength == 0 else logits + strength * priors.to(logits)


def distance_smoothed_targets(distances_km: Tensor, tau_km: float) -> Tensor:
    """Target distribution over cells (b, k) from distances (b, k) of a photo to their centres.

    ∝ exp(−(d − d_min) / τ), normalised to sum 1 (after the haversine smoothing of PIGEON, Haas et
    al., CVPR 2024, eq. 2, whose targets are not normalised). τ → 0 is the nearest cell alone.
    """
    if tau_km <= 0:
        return functional.one_hot(distances_km.argmin(1), distances_km.shape[1]).to(distances_km)
    return torch.softmax(-distances_km / tau_km, dim=1)


def distance_smoothed_cross_entropy(
    logits: Tensor,
    coordinates: Tensor,
    centres: Tensor,
    tau_km: float,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy of cell logits (b, k) against targets smoothed by great-circle distance.

    Args:
        logits: (b, k).
        coordinates: true coordinates (b, 2) in degrees.
        centres: centres of the cells (k, 2) in degrees.
        tau_km: decay length; 0 for the nearest cell alone.
        reduction: over the b rows.
    """
    with torch.no_grad():
        distances = pairwise_km(coordinates.float(), centres.float())
        targets = distance_smoothed_targets(distances, tau_km).to(logits.dtype)
    losses = -(targets * torch.log_softmax(logits, dim=1)).sum(1)
    return losses.mean() if reduction == "mean" else losses.sum()


def great_circle_km(vectors: Tensor, coordinates: Tensor) -> Tensor:
    """Distances (b,) in km between directions (b, 3) of any length and coordinates (b, 2)."""
    truth = unit_vectors(coordinates).to(vectors)
    cross = torch.linalg.cross(vectors, truth, dim=-1)
    squared = (cross * cross).sum(-1)
    # the root has no gradient at 0, where a photo is already placed exactly
    sine = torch.where(squared > 0, squared.clamp_min(1e-20).sqrt(), squared)
    return EARTH_RADIUS_KM * torch.atan2(sine, (vectors * truth).sum(-1))


def great_circle_loss(
    vectors: Tensor, coordinates: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    """Great-circle distance in km of predicted directions (b, 3) from coordinates (b, 2).

    A distance on the sphere has no date line, no poles and no cos(latitude) to forget.
    """
    distances = great_circle_km(vectors, coordinates)
    return distances.mean() if reduction == "mean" else distances.sum()


def contrastive_loss(
    images: Tensor, texts: Tensor, scale: Tensor | float, positives: Tensor | None = None
) -> Tensor:
    """Symmetric contrastive loss of photos and captions.

    Each photo is asked for its captions among all captions, and the reverse (CLIP, Radford et al.,
    2021). Where a row has several positives, as photos with the same caption do, the target is
    spread evenly over them (SupCon, Khosla et al., 2020, eq. 2).

    Args:
        images: (n, P), of length 1.
        texts: (n, P), of length 1; row i belongs to photo i.
        scale: inverse temperature.
        positives: (n, n) boolean, photo × caption; the diagonal alone if None.
    """
    if images.shape != texts.shape:
        raise ValueError(f"{tuple(images.shape)} photos and {tuple(texts.shape)} captions differ")
    logits = scale * images @ texts.T
    if positives is None:
        positives = torch.eye(len(images), dtype=torch.bool, device=images.device)
    if not bool(positives.diagonal().all()):
        raise ValueError("each photo must be a positive of its own caption")
    targets = positives.to(logits.dtype)
    by_photo = targets / targets.sum(1, keepdim=True)
    by_caption = targets / targets.sum(0, keepdim=True)
    photo_loss = -(by_photo * torch.log_softmax(logits, dim=1)).sum(1).mean()
    caption_loss = -(by_caption * torch.log_softmax(logits, dim=0)).sum(0).mean()
    return (photo_loss + caption_loss) / 2
