"""Elements that folium writes into a map's script; ``static/offline_map.js`` does the work."""

from typing import Any

import folium
import folium.plugins
from branca.element import MacroElement
from folium.map import Layer
from folium.template import Template

from ui import static_files
from ui.map_shapes import Coordinate
from ui.theme import Palette, translucent


def variables(colours: Palette) -> str:
    """The colours as CSS variables, for ``static/offline_map.css``."""
    values = {
        "ink": colours.ink,
        "muted": colours.muted,
        "paper": colours.paper,
        "sea": colours.sea,
        "land": colours.land,
        "glass": translucent(colours.paper, 0.92),
        "hairline": translucent(colours.muted, 0.3),
        "icons": "invert(0.88)" if colours.dark else "none",
    }
    listed = "; ".join(f"--map-{name}: {value}" for name, value in values.items())
    return f"<style>:root {{ {listed} }}</style>"


class Panes(MacroElement):
    """The planes of the map: land, images, border lines, names."""

    _template = Template(
        "{% macro script(this, kwargs) %}OfflineMap.panes({{ this._parent.get_name() }});"
        "{% endmacro %}"
    )

    def __init__(self) -> None:
        super().__init__()
        self._name = "Panes"


class Borders(Layer):
    """Land, borders and names from ``static/borders``, the base layer of every map."""

    _template = Template(
        "{% macro script(this, kwargs) %}var {{ this.get_name() }} = OfflineMap.borders("
        "{{ this.base|tojson }}, {{ this.colours|tojson }});{% endmacro %}"
    )

    def __init__(self, colours: Palette) -> None:
        super().__init__(name="Outlines (no internet)", overlay=False, control=True, show=True)
        self._name = "Borders"
        self.base = f"{static_files.FROM_COMPONENT}/borders"
        self.colours = {
            "land": colours.land,
            "border": colours.border,
            "subdivision": colours.subdivision,
        }


class Pin(MacroElement):
    """A numbered disc. ``folium.Marker`` would fetch Leaflet's default icon before its own."""

    _template = Template(
        "{% macro script(this, kwargs) %}var {{ this.get_name() }} = OfflineMap.pin("
        "{{ this.location|tojson }}, {{ this.text|tojson }}, {{ this.colour|tojson }})"
        ".addTo({{ this._parent.get_name() }});{% endmacro %}"
    )

    def __init__(self, location: Coordinate, text: str, colour: str) -> None:
        super().__init__()
        self._name = "Pin"
        self.location = location
        self.text = text
        self.colour = colour


class Popup(MacroElement):
    """What opens when its parent is clicked or tapped: ``html``, made safe by the caller.

    ``folium.Popup`` gives its content a random id, so that the same map is never the same text.
    """

    _template = Template(
        "{% macro script(this, kwargs) %}{{ this._parent.get_name() }}.bindPopup("
        "{{ this.html|tojson }}, {maxWidth: 260});{% endmacro %}"
    )

    def __init__(self, html: str) -> None:
        super().__init__()
        self._name = "Popup"
        self.html = html


class View(MacroElement):
    """The first view: ``bounds`` as south-west and north-east corner."""

    _template = Template(
        "{% macro script(this, kwargs) %}OfflineMap.view({{ this._parent.get_name() }}, "
        "{{ this.bounds|tojson }}, {{ this.max_zoom|tojson }});{% endmacro %}"
    )

    def __init__(self, bounds: list[list[float]], max_zoom: float) -> None:
        super().__init__()
        self._name = "View"
        self.bounds = bounds
        self.max_zoom = max_zoom


class Legend(MacroElement):
    """Text and colour of each line, at the lower left."""

    _template = Template(
        "{% macro script(this, kwargs) %}{% if this.lines %}"
        "OfflineMap.legend({{ this._parent.get_name() }}, {{ this.lines|tojson }});"
        "{% endif %}{% endmacro %}"
    )

    def __init__(self, lines: dict[str, str]) -> None:
        super().__init__()
        self._name = "Legend"
        self.lines = [[text, colour] for text, colour in lines.items()]


def online_tiles() -> list[folium.TileLayer]:
    """Base layers from the internet, switched off: their servers hear nothing until they are on."""
    openstreetmap = folium.TileLayer(
        "https://tile.openstreetmap.org/{z}/{x}/{y}.png",
        attr="© OpenStreetMap contributors",
        name="OpenStreetMap (asks the internet)",
        overlay=False,
        show=False,
        max_zoom=18,
    )
    satellite = folium.TileLayer(
        "https://server.arcgisonline.com/ArcGIS/rest/services/World_Imagery/MapServer"
        "/tile/{z}/{y}/{x}",
        attr="Imagery © Esri, Maxar, Earthstar Geographics and the GIS user community",
        name="Satellite (asks the internet)",
        overlay=False,
        show=False,
        max_zoom=18,
    )
    return [openstreetmap, satellite]


class LocalMarkerCluster(folium.plugins.MarkerCluster):
    """Markers that gather while the map is zoomed out, with the plug-in's files from here."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        folder = static_files.vendor_folder("leaflet_markercluster")
        script, *styles = (
            static_files.from_component(f"{folder}/{name}")
            for name in (
                "leaflet.markercluster.js",
                "MarkerCluster.css",
                "MarkerCluster.Default.css",
            )
        )
        self.default_js = [("markercluster", script)]
        self.default_css = [(f"markercluster_css_{i}", css) for i, css in enumerate(styles)]
