"""The layout of a page around a map: controls and cards on one side, the map on the other.

On a wide screen the map stays in view while the cards scroll beside it; on a narrow one the order
is controls, map, cards. Streamlit's columns can do neither, a CSS grid does both; without the
style sheet the three parts simply follow each other.
"""

from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

_STYLE = """<style>
@media (min-width: 900px) {
  .st-key-workbench {
    display: grid;
    gap: 1rem 2.5rem;
    grid-template: "controls map" auto "cards map" 1fr / minmax(0, 2fr) minmax(0, 3fr);
  }
  .st-key-workbench > :has(> .st-key-controls) { grid-area: controls; }
  .st-key-workbench > :has(> .st-key-cards) { grid-area: cards; }
  .st-key-workbench > :has(> .st-key-map-side) {
    align-self: start; grid-area: map; position: sticky; top: 4rem;
  }
}
</style>"""


class Workbench(NamedTuple):
    """Three containers: ``with bench.map_side: ...``."""

    controls: DeltaGenerator
    map_side: DeltaGenerator
    cards: DeltaGenerator


def workbench() -> Workbench:
    """Lay out the page; once a page."""
    st.html(_STYLE)
    with st.container(key="workbench"):
        return Workbench(
            st.container(key="controls"), st.container(key="map-side"), st.container(key="cards")
        )
