"""Read metrics.json, the numbers that are saved with a checkpoint, a run or an evaluation."""

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from geoclip_core.checks import Finite, NotNegative, Share, checked
from geoclip_core.files import read_json

MAX_BYTES = 8 * 2**20
Bounds = tuple[Finite | None, Finite | None]
"""Low and high of an interval."""
Count = Field(default=None, ge=0, le=10**12)


class _Part(BaseModel):
    """Keys that are read somewhere have a type; further keys are kept as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class HeadNumbers(_Part):
    """Numbers of one context head."""

    n: int | None = Count
    top1: Share | None = None
    top3: Share | None = None
    majority: Share | None = None
    macro_f1: Share | None = None


class Numbers(_Part):
    """Numbers of a model or a baseline."""

    n: int | None = Count
    geoscore: NotNegative | None = None
    median_km: NotNegative | None = None
    mean_km: NotNegative | None = None
    accuracy_at_km: dict[str, Share | None] = Field(default_factory=dict)


class Intervals(_Part):
    """95 % intervals at the paths of the numbers."""

    geoscore: Bounds | None = None
    median_km: Bounds | None = None
    accuracy_at_km: dict[str, Bounds | None] = Field(default_factory=dict)


class About(_Part):
    """What was measured."""

    split: str | None = None
    dataset: str | None = None
    model: str | None = None


class Published(_Part):
    """What the authors of a model report."""

    source: str
    test: str
    accuracy_at_km: dict[str, Share]


class Retrieval(_Part):
    """Retrieval of captions by a pretrained pair of towers."""

    among: int | None = Count
    image_to_text: Share | None = None
    text_to_image: Share | None = None


class PretrainNumbers(_Part):
    """Numbers of a pretrained pair of towers on one split."""

    n: int | None = Count
    loss: Finite | None = None
    retrieval: Retrieval | None = None
    zero_shot: dict[str, HeadNumbers] | None = None


class Results(Numbers):
    """The keys of metrics.json that pages, cards and sentences read."""

    context: dict[str, HeadNumbers] | None = None
    coverage: dict[str, Share | None] | None = None
    calibrated_by: str | None = None
    intervals: Intervals | None = None
    baselines: dict[str, Numbers] | None = None
    about: About | None = None
    published: Published | None = None
    train: PretrainNumbers | None = None
    val: PretrainNumbers | None = None
    test: PretrainNumbers | None = None


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a metrics.json. Numbers that are not finite become None: not measured.

    Raises:
        FileError: it cannot be read, or a value has another type; the key is named.
    """
    content = checked(dict[str, Any], read_json(path, MAX_BYTES), path)
    content = {key: _finite(value) for key, value in content.items()}
    checked(Results, content, path)
    return content


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return value
