"""Find the parts of a photo that an answer depends on, by covering them.

A window moves over the photo. The pixels under it are set to the photo's mean colour, and the model
runs again (occlusion sensitivity: Zeiler & Fergus, Visualizing and Understanding Convolutional
Networks, ECCV 2014, section 4.2). This needs no gradients and so works for every backbone and head.
The result is checked: the parts that matter most are covered together, and for comparison the same
shape is covered elsewhere in the photo (deletion: Petsiuk et al., RISE, BMVC 2018).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageStat

from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import GEOSCORE_MAXIMUM
from geoclip_core.model.geolocation import Estimate

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

PLACE = "place"
"""Key of the answer that every model gives; the others are its context features."""
CELLS = 63
"""Approximate number of cells that a photo is cut into; a window covers two by two."""
MARKED_SHARE = 0.2
"""Share of the cells that are marked as the most important."""
ELSEWHERE = 6
"""Number of places to which the marked shape is moved for comparison."""
FOR = (232, 113, 10)
"""Red, green and blue of evidence for an answer: the app's colour of the best guess."""
AGAINST = (47, 111, 222)
"""The same for evidence against it: the app's colour of candidates."""
_OPACITY = 0.75
_FULL_COLOUR = 0.1
"""Least share of the support whose loss is drawn in full colour, so that noise stays pale."""
_BATCH = 4


@dataclass(frozen=True, eq=False)
class Effect:
    """What covering parts of a photo does to one answer.

    The support of the place is the expected GeoScore of the estimate under the model's posterior
    (0-5000); the support of a context feature is the probability of its top class.
    """

    answer: str
    """The place's name, or the class."""
    support: float
    """Support when nothing is covered."""
    cells: Floats
    """(rows, columns): mean loss of support over the windows that cover a cell; negative where the
    cell is evidence against the answer."""
    marked: Mask
    """(rows, columns): the fifth of the cells with the largest losses."""
    marked_loss: float
    """Loss of support when all marked cells are covered together."""
    elsewhere: tuple[float, ...]
    """Losses when the marked shape is covered in other places of the photo."""

    @property
    def left(self) -> float:
        """Support that is left when the marked cells are covered; at least 0."""
        return max(0.0, self.support - self.marked_loss)

    @property
    def left_elsewhere(self) -> float:
        """Mean support that is left when the shape is covered elsewhere; at least 0."""
        return max(0.0, self.support - float(np.mean(self.elsewhere)))

    @property
    def stands_out(self) -> bool:
        """Whether covering the marked cells costs more than covering the shape elsewhere."""
        return self.marked_loss > max(0.0, *self.elsewhere)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What covering parts of a photo does to each answer of one model.

    Attributes:
        file: Name of the photo.
        model: Name of the model.
        image: The photo, upright and no larger than the model needs it.
        effects: `PLACE` and each context feature that the model reads in photos -> its effect.
    """

    file: str
    model: str
    image: Image.Image
    effects: dict[str, Effect]

    def overlay(self, answer: str = PLACE, side: int = 800) -> Image.Image:
        """Return the photo with evidence for an answer in orange and against it in blue.

        `answer` is a key of `effects`; `side` is the longer side of the picture in pixels.
        """
        effect = self.effects[answer]
        scale = side / max(self.image.size)
        size = (max(1, round(self.image.width * scale)), max(1, round(self.image.height * scale)))
        photo = self.image.resize(size, Image.Resampling.LANCZOS)
        grey = photo.convert("L").convert("RGB")
        base = np.asarray(Image.blend(photo, grey, 0.6), dtype=np.float64)
        largest = max(float(np.abs(effect.cells).max()), _FULL_COLOUR * effect.support, 1e-9)
        small = Image.fromarray((effect.cells / largest).astype(np.float32))
        values = np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
        strength = np.clip(np.abs(values), 0.0, 1.0)[..., None] * _OPACITY
        colour = np.where(values[..., None] >= 0, FOR, AGAINST)
        mixed = Image.fromarray((base * (1 - strength) + colour * strength).astype(np.uint8))
        _outline(mixed, effect.marked)
        return mixed


def explain_answers(
    image: Image.Image,
    estimate: Callable[[Sequence[Image.Image]], Sequence[Estimate]],
    labels: Mapping[str, Sequence[str]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Effect]:
    """Measure the effect of every part of a photo on every answer of a model.

    Args:
        image: The photo, upright RGB.
        estimate: Function that returns an `Estimate` for each image of a batch.
        labels: Context feature -> class names, for the features to explain.
        progress: Called with (images done, all images).

    Returns:
        `PLACE` and each feature -> its effect.
    """
    whole = estimate([image])[0]
    point = whole.posterior.mode()
    place = Gazetteer.load().places([point])[0].label
    tops = {f: int(np.argmax(whole.context[f])) for f in labels if f in whole.context}

    def supports(one: Estimate) -> dict[str, float]:
        expected = float(one.posterior.expected_scores(np.array([point]))[0])
        shares = {feature: float(one.context[feature][top]) for feature, top in tops.items()}
        return {PLACE: GEOSCORE_MAXIMUM * expected, **shares}

    support = supports(whole)
    shape = grid_shape(image.size)
    windows = window_masks(shape)
    total = len(windows) + len(support) * (1 + ELSEWHERE)
    done = 0

    def losses(masks: Sequence[Mask]) -> list[dict[str, float]]:
        nonlocal done
        found = []
        for start in range(0, len(masks), _BATCH):
            batch = masks[start : start + _BATCH]
            for one in estimate([covered(image, mask) for mask in batch]):
                found.append({key: support[key] - now for key, now in supports(one).items()})
            done += len(batch)
            if progress:
                progress(done, total)
        return found

    by_window = losses(windows)
    windows_per_cell = np.sum(windows, axis=0)
    effects = {}
    for key in support:
        lost = np.array([loss[key] for loss in by_window])
        cells = np.tensordot(lost, np.array(windows, dtype=np.float64), axes=1) / windows_per_cell
        marked = np.zeros(shape, dtype=np.bool_)
        count = max(1, round(MARKED_SHARE * cells.size))
        marked.flat[np.argsort(-cells, axis=None, kind="stable")[:count]] = True
        together = [loss[key] for loss in losses([marked, *moved(marked)])]
        effects[key] = Effect(
            place if key == PLACE else labels[key][tops[key]],
            support[key],
            cells,
            marked,
            together[0],
            tuple(together[1:]),
        )
    return effects


def grid_shape(size: tuple[int, int]) -> tuple[int, int]:
    """Return (rows, columns) of about `CELLS` nearly square cells for a (width, height)."""
    aspect = min(max(size[0] / size[1], 0.2), 5.0)
    rows = max(3, round((CELLS / aspect) ** 0.5))
    return rows, max(3, round(CELLS / rows))


def window_masks(shape: tuple[int, int]) -> list[Mask]:
    """Return every window of two by two cells, as (rows, columns) masks."""
    masks = []
    for row in range(shape[0] - 1):
        for column in range(shape[1] - 1):
            mask = np.zeros(shape, dtype=np.bool_)
            mask[row : row + 2, column : column + 2] = True
            masks.append(mask)
    return masks


def covered(image: Image.Image, mask: Mask) -> Image.Image:
    """Return the photo with the cells of a mask in its mean colour."""
    result = image.copy()
    colour = tuple(round(mean) for mean in ImageStat.Stat(image).mean)
    for row, column in np.argwhere(mask):
        result.paste(colour, _cell_box(image.size, mask.shape, int(row), int(column)))
    return result


def moved(mask: Mask) -> list[Mask]:
    """Return the shape of a mask in `ELSEWHERE` other places, where it overlaps the mask least.

    A shape that leaves the photo on one side enters on the other, so the covered area is the same.
    """
    rows, columns = mask.shape
    shifts = [(r, c) for r in range(rows) for c in range(columns) if r or c]
    shapes = [np.roll(mask, shift, axis=(0, 1)) for shift in shifts]
    overlaps = [int((shape & mask).sum()) for shape in shapes]
    few = np.flatnonzero(np.array(overlaps) <= sorted(overlaps)[ELSEWHERE - 1])
    chosen = few[np.linspace(0, len(few) - 1, ELSEWHERE).round().astype(int)]
    return [shapes[index] for index in chosen]


def _cell_box(
    size: tuple[int, int], shape: tuple[int, int], row: int, column: int
) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of a cell in pixels; neighbours share their edges."""
    (width, height), (rows, columns) = size, shape
    return (
        column * width // columns,
        row * height // rows,
        (column + 1) * width // columns,
        (row + 1) * height // rows,
    )


def _outline(image: Image.Image, mask: Mask) -> None:
    """Draw the border of the marked cells: white on dark, visible on any photo."""
    draw = ImageDraw.Draw(image)
    padded = np.pad(mask, 1)
    lines = []
    for row, column in np.argwhere(mask):
        left, top, right, bottom = _cell_box(image.size, mask.shape, int(row), int(column))
        right, bottom = min(right, image.width - 1), min(bottom, image.height - 1)
        edges = {
            (0, 1): (left, top, right, top),
            (2, 1): (left, bottom, right, bottom),
            (1, 0): (left, top, left, bottom),
            (1, 2): (right, top, right, bottom),
        }
        lines += [line for (r, c), line in edges.items() if not padded[row + r, column + c]]
    for width, colour in ((5, (20, 20, 20)), (2, (255, 255, 255))):
        for line in lines:
            draw.line(line, fill=colour, width=width)
