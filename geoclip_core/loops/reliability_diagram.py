"""The coverage diagram of a model card, as an SVG that needs nothing to be drawn.

Left to right: by what factor every radius would have to be multiplied. Upwards: the share of photos
whose true place then lies inside. An honest model crosses 50 % and 90 % at a factor of one.
"""

import math
from collections.abc import Sequence

import pandas as pd

from geoclip_core.loops.reliability import coverage_at_scales

_WIDTH, _HEIGHT = 680, 300
_PANEL, _TOP, _LEFT, _GAP, _DEEP = 270, 54, 56, 60, 190
_LINES = (("50", "#e8710a", ""), ("90", "#2f6fde", "6 4"))
_TICKS = (0.1, 0.3, 1.0, 3.0, 10.0)


def coverage_diagram(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """Two panels, before and after, each with the curves of the 50 % and the 90 % radius.

    Args:
        before: predictions with the radii as the model stated them.
        after: the same photos with calibrated radii.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="system-ui, sans-serif" font-size="12" '
        'role="img" aria-label="Coverage before and after calibration">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="#ffffff"/>',
    ]
    for index, (title, frame) in enumerate((("Before", before), ("After calibration", after))):
        parts += _panel(_LEFT + index * (_PANEL + _GAP), title, frame, legend=index == 0)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: float, title: str, frame: pd.DataFrame, legend: bool) -> list[str]:
    bottom = _TOP + _DEEP
    curve = coverage_at_scales(frame)

    def x(scale: float) -> float:
        return left + _PANEL * (math.log10(scale) + 1) / 2

    def y(share: float) -> float:
        return bottom - _DEEP * share

    parts = [_text(left, _TOP - 28, title, weight=600, size=14, colour="#1c2733")]
    for share in (0.0, 0.5, 0.9, 1.0):
        dashed = ' stroke-dasharray="2 3"' if share in (0.5, 0.9) else ""
        parts.append(f'<path d="M{left} {y(share):.1f}H{left + _PANEL}" stroke="#c3cdd7"{dashed}/>')
        parts.append(_text(left - 8, y(share) + 4, f"{share:.0%}", anchor="end"))
    for tick in _TICKS:
        parts.append(_text(x(tick), bottom + 18, f"{tick:g}×", anchor="middle"))
    parts.append(f'<path d="M{x(1):.1f} {_TOP}V{bottom}" stroke="#93a3b3"/>')
    parts.append(
        _text(left + _PANEL / 2, bottom + 38, "radius multiplied by", anchor="middle", size=12)
    )
    for place, (mass, colour, dash) in enumerate(_LINES):
        shares = curve[f"coverage_{mass}"]
        if shares.isna().any():
            continue
        points = _points([(x(s), y(c)) for s, c in zip(curve["scale"], shares, strict=True)])
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>'
        )
        if legend:
            parts.append(
                _text(
                    x(0.11), _TOP + 14 + 16 * place, f"{mass} % radius", colour=colour, weight=600
                )
            )
    return parts


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 11,
    weight: int = 400,
    colour: str = "#5f6f80",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{colour}">{text}</text>'
    )
