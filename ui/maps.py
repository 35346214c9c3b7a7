"""Maps that work without internet: folium, with every file from this server.

``OfflineMap`` draws land, borders and names from ``static/borders``; OpenStreetMap and satellite
tiles are layers that ask their servers for something only once the viewer switches them on. What a
page puts on the map keeps to the colours of ``ui.theme``.
"""

import base64
import html
from collections.abc import Sequence
from typing import Any, Literal

import folium
import folium.plugins
from branca.element import Element, MacroElement
from folium.map import Layer
from folium.template import Template
from numpy.typing import NDArray
from streamlit_folium import st_folium

from ui import geometry, static_files
from ui.geometry import Coordinate
from ui.theme import Palette, palette, translucent


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


Role = Literal["truth", "best", "candidate", "other"]

_LABELS = {
    "truth": "Where it was taken",
    "best": "Best guess",
    "candidate": "Candidate",
    "other": "Second model",
}
_ORDER: tuple[Role, ...] = ("best", "other", "candidate", "truth")


class OfflineMap(folium.Map):
    """A world map centred on what it shows.

    Args:
        focus: coordinates (latitude, longitude) that must be in view at first; none: the world.
        middle: longitude to centre the world on; by default the middle of the focus.
        max_zoom: how close the first view may be.
        colours: the palette; by default the one of the viewer's theme.

    Attributes:
        middle: the longitude it is centred on.
        window: what an image on the map should cover: the first view and its surroundings.
    """

    def __init__(
        self,
        focus: Sequence[Coordinate] = (),
        middle: float | None = None,
        max_zoom: float = 6,
        colours: Palette | None = None,
    ) -> None:
        self.colours = colours or palette()
        self.middle = (
            geometry.middle_longitude([longitude for _, longitude in focus])
            if middle is None
            else float(middle)
        )
        super().__init__(
            location=(20, self.middle),
            tiles=None,
            zoom_start=2,
            min_zoom=1,
            max_zoom=18,
            zoom_snap=0.25,
            zoom_delta=1,
            wheel_px_per_zoom_level=90,
            # Beyond the poles and more than one turn to either side there is nothing to see.
            max_bounds=True,
            min_lat=-88,
            max_lat=88,
            min_lon=self.middle - 360,
            max_lon=self.middle + 360,
            max_bounds_viscosity=0.9,
            control_scale=True,
            attribution_control=True,
        )
        leaflet, jquery = map(static_files.vendor_folder, ("leaflet", "jquery"))
        self.default_js = [
            ("leaflet", static_files.from_component(f"{leaflet}/leaflet.js")),
            ("jquery", static_files.from_component(f"{jquery}/jquery.min.js")),
            ("offline_map", static_files.from_component("offline_map.js")),
        ]
        self.default_css = [
            ("leaflet_css", static_files.from_component(f"{leaflet}/leaflet.css")),
            ("offline_map_css", static_files.from_component("offline_map.css")),
        ]
        self.get_root().header.add_child(Element(variables(self.colours)), name="map_colours")
        self.add_child(Panes())
        self.add_child(Borders(self.colours))
        for tiles in online_tiles():
            tiles.add_to(self)
        self._focus = [self.at(point) for point in focus]
        self.window = geometry.window_around(self._focus, self.middle)
        self._max_zoom = max_zoom
        self._roles: dict[Role, str] = {}
        self._finished = False

    def at(self, coordinate: Coordinate) -> Coordinate:
        """Where the map draws a coordinate: its longitude at the copy nearest to the middle."""
        latitude, longitude = coordinate
        return float(latitude), geometry.longitude_near(float(longitude), self.middle)

    def add_point(
        self,
        coordinate: Coordinate,
        role: Role,
        label: str,
        *,
        share: float | None = None,
        text: str | None = None,
        legend: str | None = None,
        to: Any = None,
    ) -> None:
        """A point with a label that shows when it is hovered or tapped.

        Args:
            coordinate: (latitude, longitude) in degrees.
            role: what it is, which gives it its colour and its line in the legend.
            label: plain text; a line break starts a new line.
            share: its probability; the area of the point grows with it.
            text: a few characters shown in the point, such as the number of its card.
            legend: what the legend calls this role, if not the usual.
            to: layer to add it to; by default the map.
        """
        self._roles[role] = legend or _LABELS[role]
        colour = getattr(self.colours, role)
        tooltip = folium.Tooltip(plain(label), sticky=False)
        popup = Popup(plain(label))
        if text is not None:
            marker: Any = Pin(self.at(coordinate), text, colour)
        else:
            size = {"best": 9.0, "truth": 8.0, "other": 9.0, "candidate": 4.0}[role]
            marker = folium.CircleMarker(
                self.at(coordinate),
                radius=size if share is None else 4 + 13 * share**0.5,
                color=self.colours.paper,
                weight=2,
                fill=True,
                fill_color=colour,
                fill_opacity=0.75 if role == "candidate" else 1,
            )
        marker.add_child(tooltip)
        marker.add_child(popup)
        marker.add_to(self if to is None else to)

    def add_circle(
        self,
        centre: Coordinate,
        radius_km: float,
        colour: str,
        label: str,
        *,
        dashed: bool = False,
        to: Any = None,
    ) -> None:
        """What lies within ``radius_km`` of ``centre``, right at the poles and the date line."""
        layer = self if to is None else to
        for rings in geometry.circle(centre, radius_km, self.middle):
            folium.Polygon(
                rings,
                stroke=False,
                fill=True,
                fill_color=colour,
                fill_opacity=0.05 if dashed else 0.1,
                tooltip=folium.Tooltip(plain(label)),
            ).add_to(layer)
            if lines := [line for line in map(geometry.edge, rings) if line]:
                folium.PolyLine(
                    lines,
                    color=colour,
                    weight=1.5,
                    dash_array="5 6" if dashed else None,
                    smooth_factor=0.3,
                ).add_to(layer)

    def add_line(
        self, start: Coordinate, end: Coordinate, label: str, colour: str | None = None
    ) -> None:
        """The shortest way between two coordinates, dashed."""
        folium.PolyLine(
            geometry.great_circle(start, end, self.middle),
            color=colour or self.colours.ink,
            weight=1.8,
            opacity=0.75,
            dash_array="3 6",
            tooltip=folium.Tooltip(plain(label)),
        ).add_to(self)

    def add_image(
        self,
        rgba: NDArray[Any],
        window: geometry.Window,
        name: str,
        *,
        opacity: float = 0.7,
        show: bool = True,
    ) -> None:
        """An image between land and borders, as a layer that can be switched.

        Args:
            rgba: pixels (height, width, 4), uint8, on the lattice of ``window``.
            window: the part of the map that it covers.
            name: its name in the layer control.
            opacity: of the whole layer.
            show: whether it is on at first.
        """
        data = base64.b64encode(geometry.png(rgba)).decode()
        group = folium.FeatureGroup(name=name, show=show)
        for shift in (-360, 0, 360) if window.is_world else (0,):
            folium.raster_layers.ImageOverlay(
                f"data:image/png;base64,{data}",
                [[window.south, window.west + shift], [window.north, window.east + shift]],
                pixelated=False,
                opacity=opacity,
                pane="images",
            ).add_to(group)
        group.add_to(self)

    def finish(self, legend: dict[str, str] | None = None) -> "OfflineMap":
        """Add the first view, the legend and the layer control; ``show_map`` does it.

        Args:
            legend: further lines, text → colour.
        """
        if not self._finished:
            lines = {self._roles[r]: getattr(self.colours, r) for r in _ORDER if r in self._roles}
            self.add_child(Legend({**lines, **(legend or {})}))
            bounds = (
                geometry.bounds_of(self._focus, self.middle)
                if self._focus
                else [[-52, self.middle - 165], [72, self.middle + 165]]
            )
            self.add_child(View(bounds, self._max_zoom))
            self.add_child(folium.LayerControl(collapsed=True))
            self._finished = True
        return self


def show_map(
    world: OfflineMap, key: str, height: int = 540, legend: dict[str, str] | None = None
) -> None:
    """Show a map across the column. Moving it does not rerun the page."""
    st_folium(
        world.finish(legend), key=key, height=height, use_container_width=True, returned_objects=[]
    )


def plain(text: str) -> str:
    """Text made safe inside HTML, a JavaScript template literal and a Jinja template.

    Names of files and places come from outside: a backtick, a dollar or a brace in them must stay
    a character. A line break becomes ``<br>``.
    """
    escaped = html.escape(text, quote=True)
    for character in "`$\\{}":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped.replace("\n", "<br>")
