"""The headline numbers and differences as HTML tables, in the colours of the page."""

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd

from geoclip_core.loops import metrics
from ui.evaluation.headline import MEASURES, PLACES, HeadlineRow
from ui.theme import Palette, translucent


def headline_html(rows: Sequence[HeadlineRow], colours: Palette) -> str:
    """The table: models in the colours of the charts, baselines below them."""
    paths = ["geoscore", "median_km", "mean_km"]
    paths += [f"accuracy_at_km:{t}" for t in metrics.THRESHOLDS_KM]
    paths += [f"place_accuracy:{level}" for level in PLACES]
    paths += ["coverage:50", "coverage:90"]
    shown = [path for path in paths if any(path in row.values for row in rows)]
    groups = [
        ("", [p for p in shown if ":" not in p]),
        ("Share of photos within", [p for p in shown if p.startswith("accuracy")]),
        ("In the true", [p for p in shown if p.startswith("place")]),
        ("Truth inside the radius", [p for p in shown if p.startswith("coverage")]),
    ]
    groups = [(title, paths) for title, paths in groups if paths]
    head = "".join(
        f'<th colspan="{len(paths)}" class="{"edge" if title else ""}">{title}</th>'
        for title, paths in groups
    )
    firsts = {paths[0] for title, paths in groups if title}
    names = "".join(
        f'<th class="{"edge" if path in firsts else ""}">{_title(path)}</th>' for path in shown
    )
    body = "".join(_html_row(row, shown, firsts, colours) for row in rows)
    return (
        f"{_style(colours)}<div class='headline'><table><thead><tr><th></th>{head}</tr>"
        f"<tr><th></th>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def differences_html(table: pd.DataFrame, name: str, colours: Palette) -> str:
    """The differences as a table: one line per other, one column per measure."""
    titles = {"geoscore": "GeoScore", "mean_km": "Mean error, km", "within_200_km": "Within 200 km"}
    tone = {"better": (colours.truth, "▲ "), "worse": (colours.ink, "▼ ")}
    body = ""
    for other, part in table.groupby("other", sort=False):
        cells = ""
        for row in part.itertuples(index=False):
            share = row.measure == "within_200_km"
            scale, digits, unit = (100, 1, " %") if share else (1, 0, "")
            ends = f"{row.low * scale:+,.{digits}f} to {row.high * scale:+,.{digits}f}"
            bound = f"<small>{ends}</small>" if np.isfinite([row.low, row.high]).all() else ""
            colour, sign = tone.get(row.verdict, (colours.muted, ""))
            value = f"{row.difference * scale:+,.{digits}f}{unit}"
            cells += (
                f"<td class='edge'><b>{value}</b>{bound}</td>"
                f"<td style='color:{colour};text-align:left'>{sign}{row.verdict}</td>"
            )
        body += (
            f"<tr><td class='name'>{html.escape(str(other))}"
            f"<small>{part['n'].iloc[0]:,} photos</small></td>{cells}</tr>"
        )
    head = "".join(f"<th colspan='2' class='edge'>{titles[m]}</th>" for m in MEASURES)
    return (
        f"{_style(colours)}<div class='headline differences'><table><thead><tr>"
        f"<th>{html.escape(name)} minus …</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _html_row(row: HeadlineRow, shown: Sequence[str], firsts: set[str], colours: Palette) -> str:
    dot = {"model": colours.best, "other": colours.other}.get(row.kind)
    mark = f'<i style="background:{dot}"></i>' if dot else ""
    cells = []
    for path in shown:
        edge = "edge" if path in firsts else ""
        if path not in row.values:
            cells.append(f'<td class="{edge} none">–</td>')
            continue
        low, high = row.bounds.get(path, (np.nan, np.nan))
        known = np.isfinite(low) and np.isfinite(high)
        bound = f"<small>{_number(path, low)}–{_number(path, high)}</small>" if known else ""
        value = _number(path, row.values[path])
        cells.append(f'<td class="{edge}"><b>{value}</b>{bound}</td>')
    return (
        f'<tr class="{row.kind}"><td class="name">{mark}{html.escape(row.name)}'
        f"<small>{row.n:,} photos</small></td>{''.join(cells)}</tr>"
    )


def _title(path: str) -> str:
    kind, _, key = path.partition(":")
    if kind == "accuracy_at_km":
        return f"{int(key):,} km"
    if kind == "place_accuracy":
        return PLACES[key].lower()
    if kind == "coverage":
        return f"{key} %"
    return {"geoscore": "GeoScore", "median_km": "Median km", "mean_km": "Mean km"}[kind]


def _number(path: str, value: float) -> str:
    if ":" in path:
        return f"{value * 100:.1f}"
    if path == "geoscore" or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}"


def _style(colours: Palette) -> str:
    line = translucent(colours.muted, 0.25)
    return f"""<style>
    .headline {{ overflow-x: auto; font-variant-numeric: tabular-nums; }}
    .headline table {{ border-collapse: collapse; width: 100%; font-size: 0.88rem; }}
    .headline th {{ font-weight: 500; font-size: 0.78rem; color: {colours.muted};
      padding: 2px 7px; text-align: right; white-space: nowrap; }}
    .headline thead tr:first-child th {{ text-align: left; padding-bottom: 0; }}
    .headline td {{ padding: 6px 7px; text-align: right; border-top: 1px solid {line};
      white-space: nowrap; vertical-align: top; }}
    .headline td.name {{ text-align: left; font-weight: 600; min-width: 9.5rem;
      white-space: normal; }}
    .headline td.name i {{ display: inline-block; width: 10px; height: 10px; border-radius: 50%;
      margin-right: 8px; }}
    .headline .edge {{ border-left: 1px solid {line}; }}
    .headline small {{ display: block; color: {colours.muted}; font-size: 0.68rem;
      font-weight: 400; }}
    .headline tr.baseline td, .headline tr.baseline td.name {{ font-weight: 400;
      color: {colours.muted}; }}
    .headline tr.baseline b {{ font-weight: 500; }}
    .headline td.none {{ color: {colours.muted}; }}
    </style>"""
