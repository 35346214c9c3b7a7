"""The HTML page of a report: one file with everything that draws it.

plotly.js and the outlines of its maps are written into the page once; nothing is fetched.
"""

import base64
import html
import json
from collections.abc import Sequence

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from ui.static_files import STATIC
from ui.theme import LIGHT

_COLOURS = LIGHT
Section = tuple[str, str]
"""Title (text) and content (HTML)."""


def report_page(
    title: str, told: Sequence[str], sections: Sequence[Section], warning: str = ""
) -> str:
    """The whole page.

    Args:
        title: the heading, as text.
        told: what the report is of, as texts; empty ones are left out.
        sections: the parts, in order; each is linked to from the top.
        warning: a sentence, as text, that stands above everything else.
    """
    names = [html.escape(name) for name, _ in sections]
    links = "".join(f'<a href="#part-{at}">{name}</a>' for at, name in enumerate(names))
    body = "".join(
        f'<section id="part-{at}"><h2>{names[at]}</h2>{content}</section>'
        for at, (_, content) in enumerate(sections)
    )
    banner = f'<p class="warning">{html.escape(warning)}.</p>' if warning else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}: evaluation</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script><script>{_outlines()}</script></head><body><main>"
        f"<h1>{html.escape(title)}</h1>"
        f"<p class='told'>{html.escape(' · '.join(t for t in told if t))}</p>{banner}"
        f"<nav>{links}</nav>{body}</main></body></html>"
    )


def image(content: bytes, kind: str, alt: str) -> str:
    """An image that is carried in the page; ``kind`` is its MIME type."""
    return f"<img alt='{alt}' src='data:{kind};base64,{base64.b64encode(content).decode()}'>"


def chart(figure: go.Figure, height: int | None = None) -> str:
    """A figure as a piece of the page."""
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "color": _COLOURS.ink, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    if height:
        figure.update_layout(height=height)
    return plotly.io.to_html(
        figure,
        include_plotlyjs=False,
        full_html=False,
        default_width="100%",
        default_height=f"{height or figure.layout.height or 420}px",
        config={"displaylogo": False, "responsive": True},
    )


def _outlines() -> str:
    """What plotly's maps would otherwise fetch, put where they look first."""
    drawn = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((STATIC / "topojson").glob("*.json"))
    }
    return f"window.PlotlyGeoAssets = {{topojson: {json.dumps(drawn, separators=(',', ':'))}}};"


def side_by_side(*contents: str) -> str:
    """Pieces beside each other where there is room, below each other where not."""
    return f"<div class='pair'>{''.join(f'<div>{content}</div>' for content in contents)}</div>"


_STYLE = f"""
body {{ margin: 0; font: 16px/1.5 system-ui, sans-serif; color: {_COLOURS.ink};
  background: {_COLOURS.paper}; }}
main {{ max-width: 1180px; margin: 0 auto; padding: 32px 24px 80px; }}
h1 {{ margin: 0; font-size: 2rem; }} h2 {{ margin: 44px 0 8px; font-size: 1.25rem; }}
.told, .note, figcaption small {{ color: {_COLOURS.muted}; }} .told {{ margin: 4px 0 0; }}
.note {{ font-size: 0.85rem; }}
.warning {{ border-left: 4px solid {_COLOURS.best}; background: #fff4e8; padding: 10px 14px; }}
nav {{ display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 18px 0; font-size: 0.9rem; }}
nav a {{ color: {_COLOURS.candidate}; text-decoration: none; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr));
  gap: 16px; }} .pair > div {{ min-width: 0; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 18px; }}
figure {{ margin: 0; }} figure img {{ width: 100%; border-radius: 8px; display: block;
  margin-bottom: 6px; }}
@media print {{ section {{ break-inside: avoid; }} nav {{ display: none; }} }}
"""
