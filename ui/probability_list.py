"""Classes or places with their probabilities: a list in which each line is its own bar."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from ui.theme import palette, percent, rgb, translucent


@dataclass(frozen=True)
class Share:
    """One line: plain text, its probability (0 to 1), and how to draw it."""

    label: str
    probability: float
    colour: str | None = None
    """Of the bar; by default the blue of candidates."""
    marked: bool = False
    """Framed in the green of the truth."""
    hint: str = ""
    """Shown when the line is hovered."""


def probability_list(shares: Sequence[Share]) -> None:
    """Draw the lines in their order; labels wrap, so that none is cut."""
    lines = "".join(_line(share) for share in shares)
    st.html(f'<ol style="list-style:none; margin:0; padding:0">{lines}</ol>')


def _line(share: Share) -> str:
    theme = palette()
    colour = share.colour or theme.candidate
    width = f"{100 * min(max(share.probability, 0.0), 1.0):.1f}%"
    bar, rest = (
        translucent(colour, 0.32 if _is_deep(colour) else 0.5),
        translucent(theme.muted, 0.08),
    )
    frame = theme.truth if share.marked else "transparent"
    style = (
        f"display:flex; gap:.7rem; align-items:center; padding:.26rem .55rem; margin:.18rem 0; "
        f"border:1.5px solid {frame}; border-radius:.45rem; font-size:.875rem; line-height:1.35; "
        f"background:linear-gradient(90deg, {bar} {width}, {rest} {width}) border-box"
    )
    swatch = (
        f'<i style="flex:none; width:.7rem; height:.7rem; border-radius:50%; '
        f'border:1px solid {theme.border}; background:{colour}"></i>'
        if share.colour
        else ""
    )
    return (
        f'<li title="{html.escape(share.hint)}" style="{style}">{swatch}'
        f'<span style="flex:1; overflow-wrap:anywhere">{html.escape(share.label)}</span>'
        f"<b>{percent(share.probability)}</b></li>"
    )


def _is_deep(colour: str) -> bool:
    """Whether text on a strong tint of this colour would be hard to read."""
    red, green, blue = rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 150
