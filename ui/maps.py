"""Folium maps that work without internet: every file comes from this server.

``OfflineMap`` draws land, borders and names from ``static/borders``. OpenStreetMap and satellite
tiles are layers that are off until the viewer switches them on. ``static/offline_map.js`` does the
work in the browser.
"""

import base64
import hashlib
import html
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import folium
import streamlit as st
from branca.element import Element, Figure, MacroElement
from folium.map import Layer
from folium.template import Template
from numpy.typing import NDArray
from streamlit_folium import st_folium

from geoclip_core.earth.sphere import longitude_near
from ui import geometry
from ui.geometry import Coordinate
from ui.page import STATIC
from ui.theme import Palette, palette, translucent

_STATIC_ADDRESS = "../../app/static"
"""Address of ``STATIC`` relative to a component's frame (component/NAME/index.html)."""

_TOWNS_ADDRESS = "../../towns"
"""Address of the names of towns (``ui.server.towns``) relative to a component's frame."""

_LEAFLET = "vendor/leaflet-1.9.4"
_CLUSTER = "vendor/leaflet.markercluster-1.5.3"
_MAP = "map"
"""Session key of the map that a page shows."""

_HEIGHT = 540
_MAX_FIRST_ZOOM = 6
_LABELS_PER_PIN = 6
"""Most labels that are listed for pins that overlap."""

ONLINE_TILES = (
    (
        "OpenStreetMap (online)",
        "https://tile.openstreetmap.org/{z}/{x}/{y}.png",
        "© OpenStreetMap contributors",
    ),
    (
        "Satellite (online)",
        "https://server.arcgisonline.com/ArcGIS/rest/services/World_Imagery/MapServer"
        "/tile/{z}/{y}/{x}",
        "Imagery © Esri, Maxar, Earthstar Geographics and the GIS user community",
    ),
)
"""Base layers from the internet: name, address, attribution. They are off at first."""


class OfflineMap(folium.Map):
    """A world map.

    Args:
        focus: coordinates (latitude, longitude) in view at first; if there are none, the world.
        middle: longitude to centre the world on.
        must: where the viewer moves the map, it stays when it is drawn anew, unless one of these
            points is new and would be out of view. Without them it starts with the focus.

    Attributes:
        colours: the palette of the viewer's theme.
        window: the part of the map that an image should cover: the first view and its
            surroundings.
        legend: text -> colour of each line of the legend.
    """

    def __init__(
        self,
        focus: Sequence[Coordinate] = (),
        middle: float = 0.0,
        must: Sequence[Coordinate] | None = None,
    ) -> None:
        super().__init__(
            location=(20, middle),
            tiles=None,
            zoom_start=2,
            min_zoom=1,
            max_zoom=18,
            zoom_snap=0.25,
            zoom_delta=1,
            wheel_px_per_zoom_level=90,
            # Nothing is drawn beyond the poles, or more than 360° to either side.
            max_bounds=True,
            min_lat=-88,
            max_lat=88,
            min_lon=middle - 360,
            max_lon=middle + 360,
            max_bounds_viscosity=0.9,
            control_scale=True,
            attribution_control=True,
        )
        self.default_js = [
            ("leaflet", f"{_STATIC_ADDRESS}/{_LEAFLET}/leaflet.js"),
            ("cluster", f"{_STATIC_ADDRESS}/{_CLUSTER}/leaflet.markercluster.js"),
            ("offline_map", _own_file("offline_map.js")),
        ]
        self.default_css = [
            ("leaflet_css", f"{_STATIC_ADDRESS}/{_LEAFLET}/leaflet.css"),
            ("offline_map_css", _own_file("offline_map.css")),
        ]
        self.colours = palette()
        self.legend: dict[str, str] = {}
        self._middle = float(middle)
        self._focus = [self.at(point) for point in focus]
        self._must = None if must is None else [self.at(point) for point in must]
        self._pins = _Pins()
        self.window = geometry.window_around(self._focus, self._middle)
        page = self.get_root()
        assert isinstance(page, Figure)  # every folium.Map makes its own
        page.header.add_child(Element(_css_variables(self.colours)), name="map_colours")
        self.add_child(_Call("panes"))
        self.add_child(_Borders(self.colours))
        for name, address, attribution in ONLINE_TILES:
            folium.TileLayer(
                address, attr=attribution, name=name, overlay=False, show=False, max_zoom=18
            ).add_to(self)

    def at(self, coordinate: Coordinate) -> Coordinate:
        """Return where a coordinate is drawn: its longitude at the copy nearest to the middle."""
        latitude, longitude = coordinate
        return float(latitude), longitude_near(float(longitude), self._middle)

    def add_pin(
        self, coordinate: Coordinate, text: str, colour: str, label: str, card: str = ""
    ) -> None:
        """Add a disc with a few characters in it, such as the number of a card.

        Args:
            coordinate: where.
            text: the characters.
            colour: of the disc.
            label: plain text, shown on hover and on tap; line breaks are kept.
            card: key of the container that a click shows.
        """
        self._add_labelled(_Pin(self.at(coordinate), text, colour, card), label, self._pins)

    def add_candidate(self, coordinate: Coordinate, probability: float, label: str) -> None:
        """Add a dot whose area grows with its probability."""
        self.legend["Candidate"] = self.colours.candidate
        self._add_dot(coordinate, 4 + 13 * probability**0.5, self.colours.candidate, 0.75, label)

    def add_truth(self, coordinate: Coordinate, label: str) -> None:
        """Add the dot of the place where a photo was taken."""
        self.legend["Where it was taken"] = self.colours.truth
        self._add_dot(coordinate, 8, self.colours.truth, 1, label)

    def add_claim(self, coordinate: Coordinate, label: str) -> None:
        """Add the dot of a claimed place."""
        self.legend["Claimed place"] = self.colours.other
        # wider than the dot of the truth, which is drawn over it
        self._add_dot(coordinate, 12, self.colours.other, 1, label)

    def add_before(self, coordinate: Coordinate, label: str) -> None:
        """Add the dot of the estimate without what is given as known."""
        self.legend["Without what you know"] = self.colours.muted
        self._add_dot(coordinate, 12, self.colours.muted, 0.9, label)

    def add_similar(self, coordinate: Coordinate, label: str) -> None:
        """Add the dot of a training photo that looks like a photo."""
        self.legend["Similar training photo"] = self.colours.ink
        self._add_dot(coordinate, 6, self.colours.ink, 0.9, label)

    def add_circle(
        self,
        centre: Coordinate,
        radius_km: float,
        colour: str,
        label: str,
        *,
        dashed: bool = False,
    ) -> None:
        """Add the area within ``radius_km`` of ``centre``, also across the date line or a pole."""
        for rings in geometry.circle(centre, radius_km, self._middle):
            folium.Polygon(
                rings,
                stroke=False,
                fill=True,
                fill_color=colour,
                fill_opacity=0.05 if dashed else 0.1,
                tooltip=folium.Tooltip(plain(label)),
            ).add_to(self)
            if lines := [line for line in map(geometry.edge, rings) if line]:
                folium.PolyLine(
                    lines,
                    color=colour,
                    weight=1.5,
                    dash_array="5 6" if dashed else None,
                    smooth_factor=0.3,
                ).add_to(self)

    def add_line(self, start: Coordinate, end: Coordinate, label: str) -> None:
        """Add the great circle between two coordinates as a dashed line."""
        folium.PolyLine(
            geometry.great_circle(start, end, self._middle),
            color=self.colours.ink,
            weight=1.8,
            opacity=0.75,
            dash_array="3 6",
            tooltip=folium.Tooltip(plain(label)),
        ).add_to(self)

    def add_image(self, rgba: NDArray[Any], name: str, opacity: float) -> None:
        """Add an image between land and borders, as a layer that can be switched off.

        Its pixels (height, width, 4), uint8, are on the lattice of ``window``.
        """
        window = self.window
        data = base64.b64encode(geometry.png(rgba)).decode()
        group = folium.FeatureGroup(name=name)
        for shift in geometry.COPIES if window.is_world else (0,):
            folium.raster_layers.ImageOverlay(
                f"data:image/png;base64,{data}",
                [[window.south, window.west + shift], [window.north, window.east + shift]],
                pixelated=False,
                opacity=opacity,
                pane="images",
            ).add_to(group)
        group.add_to(self)

    def finish(self) -> None:
        """Add pins, legend, view and layer control. ``show_map`` calls this."""
        self._pins.add_to(self)
        if self.legend:
            self.add_child(_Call("legend", list(self.legend.items())))
        bounds = (
            geometry.bounds_of(self._focus, self._middle)
            if self._focus
            else [[-52, self._middle - 165], [72, self._middle + 165]]
        )
        self.add_child(_Call("view", bounds, _MAX_FIRST_ZOOM, self._must, self._middle))
        control = folium.LayerControl(collapsed=True)
        control.add_child(_Call("layers"))
        self.add_child(control)

    def _add_dot(
        self, coordinate: Coordinate, radius: float, colour: str, opacity: float, label: str
    ) -> None:
        dot = folium.CircleMarker(
            self.at(coordinate),
            radius=radius,
            color=self.colours.paper,
            weight=2,
            fill=True,
            fill_color=colour,
            fill_opacity=opacity,
        )
        self._add_labelled(dot, label)

    def _add_labelled(
        self, marker: MacroElement, label: str, to: MacroElement | None = None
    ) -> None:
        marker.add_child(folium.Tooltip(plain(label), sticky=False))
        # folium.Popup has a random id: with it, every rerun would redraw an unchanged map.
        marker.add_child(_Call("popup", plain(label)))
        marker.add_to(self if to is None else to)


def show_map(world: OfflineMap, on_open: Callable[[str], None] | None = None) -> None:
    """Show the page's map across the column. Moving it does not rerun the page.

    ``on_open`` is called with the key of a card that was asked for by a click on its pin, and that
    the page does not show; the page is then drawn anew.
    """
    world.finish()

    def changed() -> None:
        asked = st.session_state.get(_MAP)
        card = asked.get("card") if isinstance(asked, dict) else None
        if on_open is not None and isinstance(card, str):
            on_open(card)

    st_folium(
        world,
        key=_MAP,
        height=_HEIGHT,
        use_container_width=True,
        returned_objects=[],
        on_change=changed,
    )


def answer_map(
    world: OfflineMap,
    key: str,
    answer: Coordinate | None,
    centre: Coordinate | None,
    on_click: Callable[[Coordinate], None],
    height: int = _HEIGHT,
) -> None:
    """Show a map that asks for a point, by click or tap, or by keyboard with a crosshair.

    Args:
        world: The map.
        key: Different for every question; with the same key the map is not drawn again.
        answer: The point given so far, drawn as a pin.
        centre: The map moves there when this changes.
        on_click: Called with the point before the page is run again.
        height: In pixels.
    """

    def take() -> None:
        clicked = (st.session_state.get(key) or {}).get("last_clicked")
        if clicked:
            on_click((float(clicked["lat"]), longitude_near(float(clicked["lng"]), 0)))

    world.add_child(_Call("ask"))
    world.finish()
    pins = folium.FeatureGroup(name="Your guess")
    if answer is not None:
        _Pin(world.at(answer), "?", world.colours.candidate).add_to(pins)
    st_folium(
        world,
        key=key,
        height=height,
        use_container_width=True,
        returned_objects=["last_clicked"],
        feature_group_to_add=pins,
        center=None if centre is None else world.at(centre),
        on_change=take,
    )


def plain(text: str) -> str:
    """Escape text for HTML inside a JavaScript template literal inside a Jinja template.

    Names of files and places come from outside, so a backtick, a dollar or a brace in them must
    not become code. A line break becomes ``<br>``.
    """
    escaped = html.escape(text, quote=True)
    for character in "`$\\{}":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped.replace("\n", "<br>")


class _Call(MacroElement):
    """Calls a function of ``static/offline_map.js`` with the parent element and arguments."""

    _template = Template(
        "{% macro script(this, kwargs) %}OfflineMap.{{ this.function }}("
        "{{ this._parent.get_name() }}"
        "{% for value in this.arguments %}, {{ value|tojson }}{% endfor %});{% endmacro %}"
    )

    def __init__(self, function: str, *arguments: Any) -> None:
        super().__init__()
        self._name = "Call"
        self.function = function
        self.arguments = arguments


class _Borders(Layer):
    """Land, borders and names, the base layer of every map; names of towns at close zoom."""

    _template = Template(
        "{% macro script(this, kwargs) %}var {{ this.get_name() }} = OfflineMap.borders("
        "{{ this.base|tojson }}, {{ this.towns|tojson }}, {{ this.colours|tojson }});"
        "{% endmacro %}"
    )

    def __init__(self, colours: Palette) -> None:
        super().__init__(name="Outlines (offline)", overlay=False, control=True, show=True)
        self._name = "Borders"
        self.base = f"{_STATIC_ADDRESS}/borders"
        self.towns = _TOWNS_ADDRESS
        self.colours = {
            "land": colours.land,
            "border": colours.border,
            "subdivision": colours.subdivision,
        }


class _Pins(MacroElement):
    """The pins of a map; those that overlap on the screen are joined."""

    _template = Template(
        "{% macro script(this, kwargs) %}var {{ this.get_name() }} = OfflineMap.pins("
        "{{ this.most }}).addTo({{ this._parent.get_name() }});{% endmacro %}"
    )

    def __init__(self) -> None:
        super().__init__()
        self._name = "Pins"
        self.most = _LABELS_PER_PIN


class _Pin(MacroElement):
    """A disc with text. ``folium.Marker`` would fetch Leaflet's default icon first."""

    _template = Template(
        "{% macro script(this, kwargs) %}var {{ this.get_name() }} = OfflineMap.pin("
        "{{ this.location|tojson }}, {{ this.text|tojson }}, {{ this.colour|tojson }}, "
        "{{ this.card|tojson }})"
        ".addTo({{ this._parent.get_name() }});{% endmacro %}"
    )

    def __init__(self, location: Coordinate, text: str, colour: str, card: str = "") -> None:
        super().__init__()
        self.card = card
        self._name = "Pin"
        self.location = location
        self.text = text
        self.colour = colour


def _css_variables(colours: Palette) -> str:
    """Return a style sheet with the colours as variables for ``static/offline_map.css``."""
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


@cache
def _own_file(name: str) -> str:
    """Return the address of a file in ``STATIC``; its digest makes browsers fetch a changed one."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"{_STATIC_ADDRESS}/{name}?{digest}"
