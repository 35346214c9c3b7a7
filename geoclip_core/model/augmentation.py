"""Augmentation of street photos: crop, colour, JPEG noise. Never a mirror image.

A mirrored street has the traffic, the writing and the shadows on the wrong side: it is a photo from
somewhere else.
"""

import io

import numpy as np
from PIL import Image, ImageEnhance

SMALLEST_CROP = 0.6
"""Share of each side that the smallest crop keeps at strength 1."""
COLOUR = 0.25
"""Largest change of brightness, contrast and saturation at strength 1, as a share."""
JPEG_QUALITY = (40, 95)
JPEG_PROBABILITY = 0.5


def augmented(image: Image.Image, rng: np.random.Generator, strength: float = 1.0) -> Image.Image:
    """A cropped, recoloured and perhaps recompressed copy of a photo.

    Args:
        image: RGB.
        rng: chance; the same state gives the same copy.
        strength: 0 leaves the photo as it is, 1 is the usual amount, up to 2.
    """
    if strength <= 0:
        return image
    image = _cropped(image, rng, 1 - (1 - SMALLEST_CROP) * min(strength, 2.0))
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        factor = 1 + min(COLOUR * strength, 0.9) * rng.uniform(-1, 1)
        image = enhancer(image).enhance(factor)
    quality = int(rng.integers(*JPEG_QUALITY))
    if rng.random() < JPEG_PROBABILITY * min(strength, 1.0):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer).convert("RGB")
    return image


def _cropped(image: Image.Image, rng: np.random.Generator, smallest: float) -> Image.Image:
    width, height = image.size
    shares = rng.uniform(smallest, 1.0, size=2)
    crop_width = max(1, round(width * shares[0]))
    crop_height = max(1, round(height * shares[1]))
    left = int(rng.integers(0, width - crop_width + 1))
    top = int(rng.integers(0, height - crop_height + 1))
    return image.crop((left, top, left + crop_width, top + crop_height))
