"""How well photos and captions agree: loss, retrieval, and classes read from captions alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoclip_core.data.captions import caption, captions
from geoclip_core.data.table import PhotoDataset
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.model.losses import contrastive_loss

RETRIEVAL_BATCH, LOSS_BATCH, TEXT_BATCH = 16, 128, 256
ZERO_SHOT_FEATURES = ("state", "climate", "month")


class PairEncoder:
    """Measures a pair of towers on the photos of one split.

    Args:
        photos: n photos.
        embeddings: gives their raw embeddings (n, D) with the weights as they are; NaN rows are
            left out.
        vocabularies: of the features to classify.
        features: what captions mention.
        seed: of the batches.
    """

    def __init__(
        self,
        photos: PhotoDataset,
        embeddings: Callable[[], NDArray[np.floating]],
        vocabularies: Mapping[str, Vocabulary],
        features: tuple[str, ...],
        seed: int = 0,
    ) -> None:
        self.photos, self.embeddings, self.seed = photos, embeddings, seed
        self.vocabularies = vocabularies
        self.captions = captions(photos.table, features=features)
        self.labels = photos.labels(vocabularies)

    @torch.no_grad()
    def measure(self, pair: Any, quick: bool = False) -> dict[str, Any]:
        """Loss, retrieval accuracies in batches of 16, zero-shot accuracies.

        Args:
            pair: `ImageTextModel` or `ClipPair`.
            quick: flat numbers alone, for a validation between epochs.
        """
        pair.eval()
        values = np.asarray(self.embeddings(), dtype=np.float32)
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        device = pair.scale.device
        images = torch.cat(
            [
                pair.encode_embedding(torch.from_numpy(values[part]).to(device)).float().cpu()
                for part in np.array_split(rows, -(-len(rows) // TEXT_BATCH))
            ]
        )
        written = [self.captions[row] for row in rows]
        texts = encode_texts(pair, written)
        scale = float(pair.scale)
        report: dict[str, Any] = {
            "n": len(rows),
            "loss": self._loss(images, texts, written, scale),
            "retrieval": self._retrieval(images, texts, written),
            "zero_shot": {
                feature: self._zero_shot(pair, images, feature, rows)
                for feature in ZERO_SHOT_FEATURES
                if feature in self.vocabularies
            },
        }
        if not quick:
            return report
        flat = {"loss": report["loss"], "retrieval_of_16": report["retrieval"]["image_to_text"]}
        zero_shot = {f: v["top1"] for f, v in report["zero_shot"].items() if v["n"]}
        return {**flat, **{f"{feature}_zero_shot": v for feature, v in zero_shot.items()}}

    def _order(self, count: int) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(count)

    def _loss(self, images: Tensor, texts: Tensor, written: list[str], scale: float) -> float:
        """Mean contrastive loss in batches of up to 128, equal captions being positives."""
        total, names = 0.0, np.array(written)
        order = self._order(len(names))
        for part in np.array_split(order, -(-len(order) // LOSS_BATCH)):
            same = torch.from_numpy(names[part][:, None] == names[part][None, :])
            total += float(contrastive_loss(images[part], texts[part], scale, same)) * len(part)
        return total / len(order)

    def _retrieval(self, images: Tensor, texts: Tensor, written: list[str]) -> dict[str, float]:
        """Share of photos whose most similar caption among 16 is theirs, and the reverse.

        Photos are shuffled and cut into batches of 16, a last smaller one left out (all are taken
        where there are fewer). A caption that reads the same as the photo's own is right.
        """
        names = np.array(written)
        order = self._order(len(names))
        size = min(RETRIEVAL_BATCH, len(order))
        hits = {"image_to_text": [], "text_to_image": []}
        for start in range(0, len(order) - size + 1, size):
            part = order[start : start + size]
            similarity = images[part] @ texts[part].T
            for name, axis in (("image_to_text", 1), ("text_to_image", 0)):
                found = similarity.argmax(axis).numpy()
                hits[name] += (names[part][found] == names[part]).tolist()
        return {**{name: float(np.mean(right)) for name, right in hits.items()}, "among": size}

    def _zero_shot(
        self, pair: Any, images: Tensor, feature: str, rows: NDArray[np.int64]
    ) -> dict[str, float | int | None]:
        """Classes by the caption that says nothing but the class; the majority class beside it."""
        vocabulary, labels = self.vocabularies[feature], self.labels[feature][rows]
        known = labels != IGNORE_INDEX
        if not known.any():
            return {"top1": None, "majority": None, "n": 0}
        prompts = encode_texts(pair, class_captions(vocabulary))
        guess = (images @ prompts.T).argmax(1).numpy()
        majority = np.bincount(labels[known]).max() / known.sum()
        top1 = float(np.mean(guess[known] == labels[known]))
        return {"top1": top1, "majority": float(majority), "n": int(known.sum())}


def class_captions(vocabulary: Vocabulary) -> list[str]:
    """A caption for each class that mentions nothing else, worded like those of training."""
    feature = vocabulary.feature
    values = range(len(vocabulary)) if feature in ("climate", "month") else vocabulary.names
    return [caption({feature: value}, features=(feature,)) for value in values]


@torch.no_grad()
def encode_texts(pair: Any, texts: list[str]) -> Tensor:
    """Vectors (n, P) of length 1; each different text is encoded once."""
    different = sorted(set(texts))
    device = pair.scale.device
    vectors = []
    for start in range(0, len(different), TEXT_BATCH):
        tokens = pair.tokens(different[start : start + TEXT_BATCH])
        tokens = {name: ids.to(device) for name, ids in tokens.items()}
        vectors.append(pair.encode_tokens(tokens).float().cpu())
    place = {text: number for number, text in enumerate(different)}
    return torch.cat(vectors)[[place[text] for text in texts]]
