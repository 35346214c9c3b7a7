/* Panes, borders, names, pins, legend and view of every Leaflet map; called by ui/maps.py.
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
  const TOWNS_FROM = 8; // zoom
  const MOST_CELLS = 48;
  const MOST_NAMES = 80;
  const LEVELS = [
    { file: "countries110.geojson", from: 0, until: 4.5, kind: "country" },
    { file: "countries50.geojson", from: 4.5, until: 99, kind: "country" },
    { file: "us_states.geojson", from: 3.75, until: 99, kind: "state", minorOf: true },
    { file: "us_counties_ten_states.geojson", from: 6.5, until: 99, kind: "county", minorOf: true },
  ];
  const fetched = {};

  // The page around this frame, if it may be read.
  const page = (() => {
    try { return window.parent === window ? null : window.parent.document; } catch { return null; }
  })();

  // What the viewer did to the map. A changed map is drawn in a new frame, so it is kept per tab.
  const KEY = `map view of ${page ? page.location.pathname : ""}`;
  const memory = (() => {
    try { return JSON.parse(sessionStorage.getItem(KEY)) || {}; } catch { return {}; }
  })();

  function remember(changes) {
    Object.assign(memory, changes);
    try { sessionStorage.setItem(KEY, JSON.stringify(memory)); } catch { /* private browsing */ }
  }

  function panes(map) {
    map.options.maxZoom = 18; // folium passes it with tiles only, and groups of pins need it
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
    initialize(base, towns, colours) {
      L.LayerGroup.prototype.initialize.call(this, []);
      this._base = base;
      this._towns = towns;
      this._cells = {};
      this._colours = colours;
      this._shown = {};
    },

    getAttribution: () => "Natural Earth, US Census, GeoNames",

    onAdd(map) {
      this._names = L.layerGroup().addTo(map);
      this._renderers = {
        land: L.canvas({ pane: "land", padding: 0.5 }),
        lines: L.canvas({ pane: "lines", padding: 0.5 }),
      };
      L.LayerGroup.prototype.onAdd.call(this, map);
      map.on("zoomend", this._refresh, this);
      map.on("moveend", this._moved, this);
      this._refresh();
    },

    onRemove(map) {
      map.off("zoomend", this._refresh, this);
      map.off("moveend", this._moved, this);
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
      this._moved();
    },

    _moved() {
      this._label();
      this._fetchTowns();
    },

    // Names of the cells of one degree in view, "latitude_longitude" of their south-west corners.
    _cellsInView() {
      if (!this._map || this._map.getZoom() < TOWNS_FROM) return [];
      const view = this._map.getBounds();
      const cells = [];
      for (let lat = Math.floor(view.getSouth()); lat <= view.getNorth(); lat += 1) {
        for (let lng = Math.floor(view.getWest()); lng <= view.getEast(); lng += 1) {
          cells.push(`${lat}_${((lng + 180) % 360 + 360) % 360 - 180}`);
        }
      }
      return cells.slice(0, MOST_CELLS);
    },

    async _fetchTowns() {
      const missing = this._cellsInView().filter((cell) => !(cell in this._cells));
      if (!missing.length) return;
      for (const cell of missing) this._cells[cell] = [];
      await Promise.all(missing.map(async (cell) => {
        try {
          const answer = await fetch(`${this._towns}/${cell}.json`);
          if (answer.ok) this._cells[cell] = await answer.json();
        } catch (error) {
          delete this._cells[cell]; // asked again after the next move
        }
      }));
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

    // Draw the names of areas that are wide enough on the screen, largest first, then of towns; a
    // name that would overlap another is left out.
    _label() {
      if (!this._map) return;
      this._names.clearLayers();
      const map = this._map;
      const pixels = 256 * 2 ** map.getZoom() / 360;
      const view = map.getBounds();
      const taken = [];
      const draw = (name, kind, lat, lng, above) => {
        for (const shift of COPIES) {
          const at = [lat, lng + shift];
          if (!view.contains(at) || taken.length > MOST_NAMES) continue;
          const width = name.length * 6.5 + 6;
          const p = map.latLngToContainerPoint(at);
          const box = [p.x - width / 2, p.y - 8 - above, p.x + width / 2, p.y + 8];
          if (taken.some((o) => box[0] < o[2] && box[2] > o[0] && box[1] < o[3] && box[3] > o[1])) {
            continue;
          }
          taken.push(box);
          const span = document.createElement("span");
          span.textContent = name;
          const icon = L.divIcon({ className: `map-name map-${kind}`, html: span, iconSize: [0, 0] });
          L.marker(at, { icon, pane: "names", interactive: false, keyboard: false }).addTo(this._names);
        }
      };
      for (const level of LEVELS) {
        const shown = this._shown[level.file];
        if (!shown || !this._wanted(level)) continue;
        for (const label of [...shown.labels].sort((a, b) => b.size - a.size)) {
          if (label.width * pixels < label.name.length * 6.5 + 6) continue;
          draw(label.name, shown.kind, label.lat, label.lng, 0);
        }
      }
      // The places that give their name to a county or state come first in every cell.
      const cells = this._cellsInView().map((cell) => this._cells[cell] || []);
      for (const first of [1, 0]) {
        for (const cell of cells) {
          for (const [lat, lng, name, seat] of cell) {
            if (seat === first) draw(name, "town", lat, lng, 10);
          }
        }
      }
    },
  });

  // Set the view: where the viewer left it, or else on `bounds`. It is also set on `bounds` if there
  // is no `must`, or one of its points is new and would be out of view. The frame may still be growing when its
  // map is made, so this is repeated on every resize until the viewer moves the map.
  function view(map, bounds, maxZoom, must, middle) {
    let touched = false;
    const before = must ? { ...memory } : {};
    const key = ([lat, lng]) => `${lat.toFixed(3)} ${(((lng + 180) % 360 + 360) % 360).toFixed(3)}`;
    const known = new Set(before.must || []);
    const added = (must || []).filter((point) => !known.has(key(point)));
    const fit = () => {
      if (before.moved && before.centre) {
        const [lat, lng] = before.centre;
        map.setView([lat, lng + 360 * Math.round((middle - lng) / 360)], before.zoom, { animate: false });
        const size = map.getSize();
        if (!size.x || !size.y || added.every((point) => map.getBounds().contains(point))) return true;
      }
      map.fitBounds(bounds, { padding: [28, 28], maxZoom, animate: false });
      return false;
    };
    const container = map.getContainer();
    const touch = () => { touched = true; };
    for (const event of ["pointerdown", "wheel", "keydown"]) {
      container.addEventListener(event, touch, { passive: true });
    }
    map.on("touched", touch);
    map.on("moveend", () => {
      if (!touched || !must) return;
      const { lat, lng } = map.getCenter();
      remember({ moved: true, centre: [lat, lng], zoom: map.getZoom() });
    });
    map.on("resize", () => { if (!touched) settle(); });
    new ResizeObserver(() => map.invalidateSize({ animate: false })).observe(container);
    const settle = () => {
      const moved = fit();
      if (must && container.clientWidth) remember({ moved, must: must.map(key) });
    };
    settle();
    link(map);
  }

  // Show the base layer and the overlays that the viewer chose, also after the map is drawn anew.
  function layers(control) {
    const map = control._map;
    const hidden = new Set(memory.hidden || []);
    const bases = control._layers.filter((one) => !one.overlay);
    const base = bases.find((one) => one.name === memory.base);
    if (base) {
      for (const one of bases) if (one !== base) map.removeLayer(one.layer);
      map.addLayer(base.layer);
    }
    for (const one of control._layers) {
      if (one.overlay && hidden.has(one.name)) map.removeLayer(one.layer);
    }
    map.on("baselayerchange", ({ name }) => remember({ base: name }));
    map.on("overlayremove", ({ name }) => { hidden.add(name); remember({ hidden: [...hidden] }); });
    map.on("overlayadd", ({ name }) => { hidden.delete(name); remember({ hidden: [...hidden] }); });
  }

  const near = (a, b) => Math.abs(a.lat - b.lat) < 1e-4 &&
    Math.abs(((a.lng - b.lng + 540) % 360 + 360) % 360 - 180) < 1e-4;

  // A click on an element of the page with data-map-at="latitude,longitude" pans the map there.
  function link(map) {
    if (!page) return;
    const links = new AbortController();
    let here = null;

    function show(element) {
      const [lat, lng] = element.dataset.mapAt.split(",").map(Number);
      if (!Number.isFinite(lat) || !Number.isFinite(lng)) return;
      const centre = map.getCenter().lng;
      const at = L.latLng(lat, lng + 360 * Math.round((centre - lng) / 360));
      map.fire("touched");
      window.frameElement.scrollIntoView({ block: "nearest" });
      map.panTo(at, { animate: false });
      if (here) here.remove();
      here = L.circleMarker(at, { radius: 15, fill: false, weight: 3, className: "map-here",
        interactive: false }).addTo(map);
      map.closePopup();
      marked.filter(({ marker }) => near(marker.getLatLng(), at)).slice(0, 1)
        .forEach(({ marker }) => {
          // the group of pins is the one that knows the pin
          const group = marker.__parent?._group;
          if (group) group.zoomToShowLayer(marker, () => marker.openPopup());
          else marker.openPopup();
        });
    }

    function act(event) {
      if (!window.frameElement) { links.abort(); return; } // this frame was replaced
      if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
      const element = event.target.closest?.("[data-map-at]");
      if (!element) return;
      event.preventDefault();
      show(element);
    }

    page.addEventListener("click", act, { signal: links.signal });
    page.addEventListener("keydown", act, { signal: links.signal });
    window.addEventListener("pagehide", () => links.abort());
  }

  function flash(element) {
    element.scrollIntoView({ block: "nearest" });
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--map-ink");
    element.animate([{ outline: `3px solid ${colour}` }, { outline: "3px solid transparent" }], 1800);
  }

  // Show a card of the page. If it is on another page of cards, the app is asked for it.
  function open(card) {
    if (!page) return;
    const found = () => page.querySelector(`.st-key-${card}`);
    if (found()) { flash(found()); return; }
    window.Streamlit?.setComponentValue({ card, asked: Date.now() });
    let tries = 50;
    const wait = setInterval(() => {
      tries -= 1;
      if (found()) flash(found());
      if (found() || !tries) clearInterval(wait);
    }, 200);
  }

  const disc = (text, colour, more) => {
    const element = document.createElement("div");
    element.className = more ? "map-pin map-pins" : "map-pin";
    element.style.background = colour;
    element.textContent = text;
    return L.divIcon({ className: "map-pin-holder", html: element, iconSize: [0, 0] });
  };

  function pin(at, text, colour, card) {
    const marker = L.marker(at, { icon: disc(text, colour), riseOnHover: true });
    Object.assign(marker, { pinText: text, pinColour: colour });
    if (card) marker.on("click", () => open(card));
    return marker;
  }

  // Pins that overlap on the screen are one disc; a click zooms in or, at one point, spreads them.
  function pins(most) {
    const joined = (group) => {
      const inside = group.getAllChildMarkers().sort((a, b) => a.pinText.localeCompare(b.pinText,
        undefined, { numeric: true }));
      const texts = inside.map((one) => one.pinText);
      const text = texts.length <= 3 ? texts.join(", ") : `${texts[0]} +${texts.length - 1}`;
      return disc(text, inside[0].pinColour, true);
    };
    const group = L.markerClusterGroup({ maxClusterRadius: 26, animate: false, iconCreateFunction: joined,
      showCoverageOnHover: false, spiderfyDistanceMultiplier: 1.4 });
    group.on("clustermouseover clusterfocus", ({ layer }) => {
      const labels = layer.getAllChildMarkers().map((one) => one.getTooltip()?.getContent() || "");
      const more = labels.length > most ? `<br>and ${labels.length - most} more` : "";
      layer.bindTooltip(labels.slice(0, most).join("<br>") + more).openTooltip();
    });
    return group;
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

  const marked = [];

  // Text of a dot or pin. A click also shows where the page lists the same place.
  function popup(marker, content) {
    marker.bindPopup(content, { maxWidth: 260 });
    marked.push({ marker });
    marker.on("click", () => {
      if (!page || marker.pinText) return; // a pin opens its card
      const listed = [...page.querySelectorAll("[data-map-at]")].find((one) => {
        const [lat, lng] = one.dataset.mapAt.split(",").map(Number);
        return near(marker.getLatLng(), L.latLng(lat, lng));
      });
      if (listed) flash(listed);
    });
  }

  return { panes, view, layers, pin, pins, popup, legend, ask,
    borders: (base, towns, colours) => new Borders(base, towns, colours) };
})();
