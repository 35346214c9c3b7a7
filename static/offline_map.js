/* Panes, borders, names, pins, legend and first view of every Leaflet map; called by ui/maps.py.
 *
 * Borders are fetched from static/borders: coarse ones at once, finer ones when the viewer zooms
 * in. Everything is drawn three times, 360 degrees apart, so that a map can be centred anywhere,
 * also on the date line.
 */
"use strict";

window.OfflineMap = (() => {
  const COPIES = [-360, 0, 360];
  // z-index, from bottom to top: land, images (heatmap, climate belt), border lines, names.
  const PANES = { land: 230, images: 240, lines: 250, names: 450 };
  const LEVELS = [
    { file: "countries110.geojson", from: 0, until: 4.5, kind: "country" },
    { file: "countries50.geojson", from: 4.5, until: 99, kind: "country" },
    { file: "us_states.geojson", from: 3.75, until: 99, kind: "state", minorOf: true },
    { file: "us_counties_ten_states.geojson", from: 6.5, until: 99, kind: "county", minorOf: true },
  ];
  const fetched = {};

  function panes(map) {
    map.attributionControl.setPrefix("Leaflet");
    for (const [name, z] of Object.entries(PANES)) {
      map.createPane(name).style.zIndex = z;
      map.getPane(name).style.pointerEvents = "none";
    }
  }

  const polygons = (geometry) =>
    geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates;

  function features(url) {
    if (!fetched[url]) {
      fetched[url] = fetch(url).then((answer) => {
        if (!answer.ok) throw new Error(`${url}: HTTP ${answer.status}`);
        return answer.json();
      }).then((collection) => {
        for (const { geometry } of collection.features) {
          for (const polygon of polygons(geometry)) polygon.forEach((r, i) => { polygon[i] = continuous(r); });
        }
        return collection.features;
      });
    }
    return fetched[url];
  }

  // Some outlines jump from 180 to -180 degrees. Continue them beyond 180, so that no line crosses
  // the map; Antarctica's edge along the bottom of the map is left as it is.
  function continuous(ring) {
    let turn = 0;
    return ring.map(([lng, lat], i) => {
      const step = i ? lng - ring[i - 1][0] : 0;
      if (Math.abs(step) > 180 && lat > -85) turn -= Math.sign(step) * 360;
      return [lng + turn, lat];
    });
  }

  const latLngs = (ring, shift) => ring.map(([lng, lat]) => [lat, lng + shift]);

  // Polygons are cut at the date line and at the South Pole; these cuts are not drawn as borders.
  function lines(ring, shift) {
    const pieces = [[]];
    for (let i = 0; i < ring.length; i += 1) {
      const cut = i > 0 && ((Math.abs(ring[i][0] % 360) > 179.98 && Math.abs(ring[i][0] % 360) < 180.02 &&
        Math.abs(ring[i][0] - ring[i - 1][0]) < 0.02) ||
        (ring[i][1] < -85.1 && ring[i - 1][1] < -85.1));
      if (cut) pieces.push([]);
      pieces[pieces.length - 1].push([ring[i][1], ring[i][0] + shift]);
    }
    return pieces.filter((piece) => piece.length > 1);
  }

  // Middle of the bounding box of a feature's largest polygon, and how wide it is in degrees.
  function labelOf(feature) {
    let best = null;
    for (const polygon of polygons(feature.geometry)) {
      const lngs = polygon[0].map((p) => p[0]);
      const lats = polygon[0].map((p) => p[1]);
      const [w, e, s, n] = [Math.min(...lngs), Math.max(...lngs), Math.min(...lats), Math.max(...lats)];
      const size = (e - w) * (n - s);
      if (!best || size > best.size) best = { size, width: e - w, lat: (s + n) / 2, lng: (w + e) / 2 };
    }
    return { ...best, name: feature.properties.name || feature.properties.county };
  }

  const Borders = L.LayerGroup.extend({
    initialize(base, colours) {
      L.LayerGroup.prototype.initialize.call(this, []);
      this._base = base;
      this._colours = colours;
      this._shown = {};
    },

    getAttribution: () => "Borders: Natural Earth, US Census",

    onAdd(map) {
      this._names = L.layerGroup().addTo(map);
      this._renderers = {
        land: L.canvas({ pane: "land", padding: 0.5 }),
        lines: L.canvas({ pane: "lines", padding: 0.5 }),
      };
      L.LayerGroup.prototype.onAdd.call(this, map);
      map.on("zoomend", this._refresh, this);
      map.on("moveend", this._label, this);
      this._refresh();
    },

    onRemove(map) {
      map.off("zoomend", this._refresh, this);
      map.off("moveend", this._label, this);
      this._names.remove();
      L.LayerGroup.prototype.onRemove.call(this, map);
    },

    _wanted(level) {
      const zoom = this._map.getZoom();
      return zoom >= level.from && zoom < level.until;
    },

    async _refresh() {
      for (const level of LEVELS.filter((one) => this._wanted(one))) {
        try {
          if (!this._shown[level.file]) {
            const found = await features(`${this._base}/${level.file}`);
            if (!this._shown[level.file]) this._shown[level.file] = this._build(level, found);
          }
        } catch (error) {
          console.error("The borders could not be loaded:", error);
          return;
        }
      }
      // Swap levels only when the finer one is loaded, so that the map is never blank.
      if (!this._map) return;
      for (const level of LEVELS) {
        const shown = this._shown[level.file];
        if (!shown) continue;
        if (this._wanted(level)) this.addLayer(shown.layer);
        else this.removeLayer(shown.layer);
      }
      this._map.getContainer().dataset.borders = "drawn";
      this._label();
    },

    _build(level, found) {
      const land = { stroke: false, fillColor: this._colours.land, fillOpacity: 1, smoothFactor: 0.5,
        interactive: false, renderer: this._renderers.land };
      const line = { color: level.minorOf ? this._colours.subdivision : this._colours.border,
        weight: level.kind === "county" ? 0.6 : 0.9, fill: false, smoothFactor: 0.5,
        interactive: false, renderer: this._renderers.lines };
      const layer = L.layerGroup();
      for (const shift of COPIES) {
        for (const feature of found) {
          for (const polygon of polygons(feature.geometry)) {
            if (!level.minorOf) {
              L.polygon(polygon.map((ring) => latLngs(ring, shift)), land).addTo(layer);
            }
            L.polyline(polygon.flatMap((ring) => lines(ring, shift)), line).addTo(layer);
          }
        }
      }
      return { layer, labels: found.map(labelOf), kind: level.kind };
    },

    // Draw the names of areas that are wide enough on the screen, largest first, without overlap.
    _label() {
      if (!this._map) return;
      this._names.clearLayers();
      const map = this._map;
      const pixels = 256 * 2 ** map.getZoom() / 360;
      const view = map.getBounds();
      const taken = [];
      for (const level of LEVELS) {
        const shown = this._shown[level.file];
        if (!shown || !this._wanted(level)) continue;
        const wide = [...shown.labels].sort((a, b) => b.size - a.size);
        for (const label of wide) {
          const text = label.name.length * 6.5 + 6;
          if (label.width * pixels < text || taken.length > 80) continue;
          for (const shift of COPIES) {
            const at = [label.lat, label.lng + shift];
            if (!view.contains(at)) continue;
            const p = map.latLngToContainerPoint(at);
            const box = [p.x - text / 2, p.y - 8, p.x + text / 2, p.y + 8];
            if (taken.some((o) => box[0] < o[2] && box[2] > o[0] && box[1] < o[3] && box[3] > o[1])) {
              continue;
            }
            taken.push(box);
            const span = document.createElement("span");
            span.textContent = label.name;
            const icon = L.divIcon({ className: `map-name map-${shown.kind}`, html: span, iconSize: [0, 0] });
            L.marker(at, { icon, pane: "names", interactive: false, keyboard: false }).addTo(this._names);
          }
        }
      }
    },
  });

  // Set the first view. The frame may still be growing when its map is made, so fit again on every
  // resize until the viewer moves the map.
  function view(map, bounds, maxZoom) {
    let touched = false;
    const fit = () => map.fitBounds(bounds, { padding: [28, 28], maxZoom, animate: false });
    const container = map.getContainer();
    for (const event of ["pointerdown", "wheel", "keydown"]) {
      container.addEventListener(event, () => { touched = true; }, { passive: true });
    }
    map.on("resize", () => { if (!touched) fit(); });
    new ResizeObserver(() => map.invalidateSize({ animate: false })).observe(container);
    fit();
  }

  function pin(at, text, colour) {
    const disc = document.createElement("div");
    disc.className = "map-pin";
    disc.style.background = colour;
    disc.textContent = text;
    const icon = L.divIcon({ className: "map-pin-holder", html: disc, iconSize: [0, 0] });
    return L.marker(at, { icon, alt: `Best guess ${text}`, riseOnHover: true });
  }

  function legend(map, entries) {
    const control = L.control({ position: "bottomleft" });
    control.onAdd = () => {
      const box = L.DomUtil.create("div", "map-legend");
      for (const [text, colour] of entries) {
        const line = L.DomUtil.create("div", "", box);
        L.DomUtil.create("i", "", line).style.background = colour;
        line.append(text);
      }
      return box;
    };
    control.addTo(map);
  }

  // A map that asks for a point: Enter or Space answers with the crosshair in the middle, which is
  // shown while the map has the focus of the keyboard. A click's ring stays until the pin is drawn.
  function ask(map) {
    const container = map.getContainer();
    container.classList.add("map-ask");
    container.setAttribute("role", "application");
    container.setAttribute("aria-label",
      "Map for your guess. Arrow keys move it, plus and minus zoom, Enter puts the pin in the middle.");
    L.DomUtil.create("div", "map-crosshair", container);
    container.addEventListener("keydown", (event) => {
      if (event.target !== container || !["Enter", " "].includes(event.key)) return;
      event.preventDefault();
      map.fire("click", { latlng: map.getCenter() });
    });
    const ring = L.circleMarker([0, 0], { radius: 13, weight: 2, fill: false, interactive: false,
      color: getComputedStyle(container).getPropertyValue("--map-ink") });
    map.on("click", ({ latlng }) => ring.setLatLng(latlng).addTo(map));
    map.on("layeradd", ({ layer }) => { if (layer instanceof L.FeatureGroup) ring.remove(); });
  }

  const popup = (marker, content) => marker.bindPopup(content, { maxWidth: 260 });

  return { panes, view, pin, popup, legend, ask, borders: (base, colours) => new Borders(base, colours) };
})();
