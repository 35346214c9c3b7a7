"""Download buttons for what was located."""

from collections.abc import Sequence

import streamlit as st

from geoclip_core.formats import Row, to_csv, to_geojson, to_kml

_FORMATS = (
    ("CSV", "csv", to_csv, "text/csv"),
    ("GeoJSON", "geojson", to_geojson, "application/geo+json"),
    ("KML", "kml", to_kml, "application/vnd.google-earth.kml+xml"),
)


def download_buttons(rows: Sequence[Row]) -> None:
    """CSV, GeoJSON and KML of predictions; unreadable photos are rows of the CSV alone."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for label, suffix, convert, mime in _FORMATS:
            st.download_button(
                label,
                convert(rows),
                f"places.{suffix}",
                mime,
                icon=":material/download:",
                on_click="ignore",
                help=f"All {len(rows)} as {label}" if len(rows) > 1 else f"The result as {label}",
            )
