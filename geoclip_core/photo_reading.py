"""From a path, bytes or an image to what a backbone needs of a photo, and no more."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from geoclip_core.data.photos import Photo, PhotoError, open_photo
from geoclip_core.model.backbone import Preprocessing
from geoclip_core.prediction import Exif, Failure

PhotoSource = str | os.PathLike[str] | bytes | Image.Image
UPRIGHT_SIDES = (1024, 1024)
"""Width and height that hold the picture on which answers are explained, in pixels."""


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo reduced to what the backbone needs, so that a batch does not hold big pictures."""

    file: str
    views: list[Tensor]
    """(3, height, width) each."""
    exif: Exif | None
    seconds: float
    """Time that reading took."""


def prepare(source: PhotoSource, preprocessing: Preprocessing) -> PreparedPhoto:
    """Read a photo and make the views of a backbone.

    Raises:
        PhotoError: it cannot be read.
    """
    started = time.perf_counter()
    photo = open_photo(source, draft_size=preprocessing.draft_size)
    views = preprocessing.pixels(photo.image)
    return PreparedPhoto(photo.name, views, _exif(photo), time.perf_counter() - started)


def prepare_or_fail(source: PhotoSource, preprocessing: Preprocessing) -> PreparedPhoto | Failure:
    """The same, with a `Failure` for a photo that cannot be read."""
    try:
        return prepare(source, preprocessing)
    except PhotoError as error:
        return Failure(_name_of(source), str(error))


def upright_photo(
    source: PhotoSource, preprocessing: Preprocessing, name: str | None = None
) -> Photo:
    """A photo whose image is no larger than explaining an answer on it needs.

    Args:
        source: A path, the bytes of a file, or a PIL image.
        preprocessing: Of the backbone.
        name: What to call the photo; by default its file name.

    Raises:
        PhotoError: it cannot be read.
    """
    photo = open_photo(source, name=name, draft_size=preprocessing.draft_size)
    image = photo.image.copy()
    image.thumbnail(UPRIGHT_SIDES, Image.Resampling.BICUBIC)
    return replace(photo, image=image)


def is_source(value: Any) -> bool:
    """Whether a value is one photo, rather than several."""
    return isinstance(value, str | os.PathLike | bytes | Image.Image)


def _exif(photo: Photo) -> Exif | None:
    if photo.latitude is None and photo.captured_at is None:
        return None
    return Exif(photo.latitude, photo.longitude, photo.captured_at)


def _name_of(source: PhotoSource) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return getattr(source, "filename", "") or "photo"
