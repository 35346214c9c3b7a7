"""Synthetic street scenes for the demo set: what a place and a day look like, drawn.

Sky, ground, plants, snow and relief follow climate, month and position; signs, poles and landmarks
follow the names of the place (see `scene_places`). Weather, camera, light and what stands in view
are random, so that no head can be right every time.
"""

import dataclasses
import hashlib
import math

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from geoclip_core.data.scene_places import (
    Colour,
    draw_fence,
    draw_landmark,
    draw_poles,
    draw_sign,
    pick,
)

WIDTH, HEIGHT = 640, 360  # drawn at twice the size that is saved, for smooth edges
SAVED_SIZE = (320, 180)


@dataclasses.dataclass(frozen=True)
class SceneFacts:
    """What a scene shows.

    Attributes:
        photo_id: Seeds the chance of this photo, together with the set's seed.
        latitude: Degrees.
        longitude: Degrees.
        climate: Symbol such as "Cfa".
        day: Day of the year, 1-366.
        state: Key of the state.
        county: Key of the county.
        city: Key of the city.
    """

    photo_id: str
    latitude: float
    longitude: float
    climate: str
    day: int
    state: str
    county: str
    city: str


@dataclasses.dataclass(frozen=True)
class _Season:
    """How a climate looks on a day: degrees Celsius, and shares from 0 to 1."""

    temperature: float
    humidity: float
    green: float
    autumn: float
    bloom: float
    snow: float
    sun: float


def draw_scene(facts: SceneFacts, seed: int = 0) -> Image.Image:
    """Draw one scene, (320, 180) RGB; the same facts and seed give the same pixels."""
    digest = hashlib.blake2b(f"{seed}:{facts.photo_id}".encode(), digest_size=8).digest()
    chance = np.random.default_rng(int.from_bytes(digest, "big"))
    season = _season(facts, chance)
    horizon = HEIGHT * (0.46 + chance.normal(0, 0.025))
    haze = _mix((150, 178, 214), (205, 208, 205), season.humidity * chance.uniform(0.5, 1.0))
    image = _sky(haze, season, horizon, chance)
    draw = ImageDraw.Draw(image)
    _relief(draw, facts, season, haze, horizon, chance)
    ground = _ground(draw, facts, season, horizon, chance)
    if chance.random() < 0.85:
        x = WIDTH * (0.2 + 0.14 * pick(facts.city, "side", 5)) + chance.normal(0, 22)
        draw_landmark(draw, x, horizon, chance.uniform(52, 84), facts.city)
    _plants(draw, facts, season, horizon, chance)
    _road(draw, facts, season, ground, horizon, chance)
    if chance.random() < 0.85:
        draw_fence(draw, horizon, WIDTH, HEIGHT, facts.county)
    if chance.random() < 0.85:
        draw_poles(draw, horizon, WIDTH, facts.county, chance.normal(0, 14))
    if chance.random() < 0.85:
        x, base = WIDTH * chance.uniform(0.7, 0.88), HEIGHT * chance.uniform(0.76, 0.9)
        draw_sign(draw, x, base, chance.uniform(66, 104), facts.state, facts.county, facts.city)
    return _camera(image, season, chance)


def _season(facts: SceneFacts, chance: np.random.Generator) -> _Season:
    symbol = facts.climate if facts.climate[:1] in "ABCDE" else "Cfb"
    letter, second, last = symbol[0], symbol[1:2], symbol[-1:]
    # The weather runs ahead of the calendar or behind it, so months blur into their neighbours.
    day = facts.day + chance.normal(0, 9)
    year = math.cos(2 * math.pi * (day - 200) / 365)
    base = {"A": 26, "B": 17 if last == "h" else 10, "C": 15, "D": 6, "E": -6}[letter]
    swing = {"A": 2, "B": 13, "C": 9, "D": 16, "E": 8}[letter] * (1 if facts.latitude >= 0 else -1)
    base += {"a": 2, "b": -1, "c": -4}.get(last, 0) - 0.35 * (abs(facts.latitude) - 38)
    temperature = base + swing * year + chance.normal(0, 1.6)
    humidity = {"W": 0.02, "S": 0.25, "f": 0.95, "m": 1.0, "w": 0.55, "s": 0.5}.get(second, 0.4)
    summer_dry = 0.5 if second == "s" and year > 0.3 else 0.0
    green = _clip((temperature - 3) / 11) * (0.12 + 0.88 * humidity) - summer_dry
    return _Season(
        temperature=temperature,
        humidity=humidity,
        green=_clip(green + chance.normal(0, 0.04)),
        autumn=_bump(day, 288, 24),
        bloom=_bump(day, 118, 26),
        snow=_clip((1.5 - temperature) / 5) * chance.uniform(0.6, 1.0),
        sun=0.5 + 0.5 * year,
    )


def _sky(haze: Colour, season: _Season, horizon: float, chance: np.random.Generator) -> Image.Image:
    deep = _mix((96, 132, 186), (44, 110, 214), season.sun)
    deep = _mix(deep, (120, 160, 200), 0.5 * season.humidity)
    clouds = _clip(chance.beta(1.2, 2.2) * (0.5 + season.humidity))
    deep, low = _mix(deep, (176, 182, 190), 0.8 * clouds), _mix(haze, (214, 214, 214), clouds)
    share = np.clip(np.arange(HEIGHT) / horizon, 0, 1)[:, None] ** 1.4
    column = (np.array(deep) * (1 - share) + np.array(low) * share).astype(np.uint8)
    sky = Image.fromarray(column[:, None, :]).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    mask = Image.new("L", (WIDTH // 8, HEIGHT // 8))
    puffs = ImageDraw.Draw(mask)
    for _ in range(int(3 + 14 * clouds)):
        x, y = chance.uniform(0, mask.width), chance.uniform(0, horizon / 9)
        w, h = chance.uniform(4, 14), chance.uniform(1, 3 + 2 * season.humidity)
        puffs.ellipse((x - w, y - h, x + w, y + h), fill=int(chance.uniform(70, 190)))
    mask = mask.filter(ImageFilter.GaussianBlur(1))
    sky.paste((244, 244, 246), mask=mask.resize(sky.size, Image.Resampling.BICUBIC))
    return sky


def _relief(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: _Season,
    haze: Colour,
    horizon: float,
    chance: np.random.Generator,
) -> None:
    # A smooth field over the map: neighbouring places see similar mountains.
    lat, lon = math.radians(facts.latitude), math.radians(facts.longitude)
    field = math.sin(9.7 * lat + 4.1) + math.sin(8.3 * lon + 1.3) + math.sin(13 * (lat - lon))
    height = 14 + 92 * _clip((-100 - facts.longitude) / 12) * _clip(0.7 + 0.25 * field)
    rough = 1 + pick(facts.state, "ridge", 4)
    x = np.linspace(0, WIDTH, 65)
    for layer in (1.0, 0.55):
        phase = chance.uniform(0, 2 * math.pi, 6)
        ridge = sum(
            np.abs(np.sin(x / WIDTH * math.pi * (1.2 + rough * 0.55 * k) + phase[k])) / (k + 1)
            for k in range(6)
        )
        top = horizon - height * layer * ridge / 1.7
        soil = _mix(_soil(facts), (62, 92, 66), 0.7 * season.humidity)
        colour = _mix(haze, soil, 0.35 + 0.4 * (1 - layer))
        outline = [(0, horizon + 6), *zip(x.tolist(), top.tolist(), strict=True)]
        draw.polygon([*outline, (WIDTH, horizon + 6)], fill=colour)
        if height > 55 and season.temperature < 16 and layer == 1.0:
            line = horizon - height * (0.55 + 0.03 * season.temperature)
            cap = np.minimum(top + 0.45 * height, np.maximum(line, top))
            edge = list(zip(x.tolist(), top.tolist(), strict=True))
            draw.polygon(
                [*edge, *reversed(list(zip(x.tolist(), cap.tolist(), strict=True)))],
                fill=(236, 240, 246),
            )


def _soil(facts: SceneFacts) -> Colour:
    soils = ((196, 168, 124), (176, 112, 78), (150, 132, 104), (206, 188, 152), (128, 104, 82))
    here = soils[pick(facts.state, "soil", len(soils))]
    return _mix(here, (190, 120, 84), _clip((-facts.latitude + 36) / 12))


def _ground(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: _Season,
    horizon: float,
    chance: np.random.Generator,
) -> Colour:
    lush = _mix((98, 150, 62), (66, 116, 50), season.sun)
    lush = _mix(lush, (140, 178, 80), 0.6 * season.bloom)
    dry = _mix((196, 178, 118), (164, 150, 104), season.humidity)
    plants = _mix(dry, lush, season.green)
    plants = _mix(plants, (186, 134, 62), 0.55 * season.autumn * season.humidity)
    cover = _clip(0.1 + 0.9 * season.humidity + chance.normal(0, 0.08))
    ground = _mix(_mix(_soil(facts), plants, cover), (238, 241, 246), 0.92 * season.snow)
    for band in range(9):
        top = horizon + (HEIGHT - horizon) * (band / 9) ** 1.6
        shade = _shade(ground, 0.9 + 0.02 * band + chance.normal(0, 0.035))
        draw.rectangle((0, top, WIDTH, HEIGHT), fill=shade)
    dots = int(90 * _clip(season.humidity * season.bloom - season.snow))
    flower = ((236, 214, 70), (214, 120, 190), (240, 240, 240))[pick(facts.climate, "flower", 3)]
    for _ in range(dots):
        x, y = chance.uniform(0, WIDTH), chance.uniform(horizon + 14, HEIGHT)
        size = 1.5 + 5 * (y - horizon) / HEIGHT
        draw.ellipse((x - size, y - size, x + size, y + size), fill=flower)
    return ground


def _plants(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: _Season,
    horizon: float,
    chance: np.random.Generator,
) -> None:
    letter, second, last = facts.climate[:1], facts.climate[1:2], facts.climate[-1:]
    # Shares of conifer, broadleaf, shrub and cactus.
    if letter == "B":
        mix = (0.05, 0.05, 0.6, 0.3) if last == "h" else (0.12, 0.08, 0.8, 0.0)
    elif letter == "C":
        mix = (0.55, 0.25, 0.2, 0.0) if second == "s" else (0.1, 0.85, 0.05, 0.0)
    elif letter == "D":
        mix = (0.85, 0.1, 0.05, 0.0) if second == "s" else (0.5, 0.45, 0.05, 0.0)
    else:
        mix = (0.0, 0.6, 0.4, 0.0) if letter == "A" else (0.3, 0.0, 0.7, 0.0)
    if letter == "D" and last == "a":
        mix = (0.2, 0.75, 0.05, 0.0)
    count = int(chance.poisson(5 + 16 * season.humidity + (6 if second == "S" else 0)))
    depth = np.sort(chance.beta(0.8, 2.6, count))
    for near in depth:
        x = chance.uniform(0, WIDTH)
        if abs(x - WIDTH / 2) < 20 + 330 * near:
            continue
        base = horizon + 4 + near * (HEIGHT - horizon) * 0.6
        size = (14 + 95 * near) * chance.uniform(0.7, 1.3)
        kind = chance.choice(4, p=mix)
        if kind == 0:
            tone = _mix((34, 72, 48), (52, 92, 60), chance.random())
            _conifer(draw, x, base, size * 1.3, _mix(tone, (232, 238, 244), 0.55 * season.snow))
        elif kind == 1:
            leaf = _mix((96, 150, 54), (52, 104, 44), season.sun)
            leaf = _mix(leaf, (206, 196, 214), 0.45 * season.bloom)
            turned = ((214, 120, 36), (196, 70, 40), (222, 178, 56))[int(chance.integers(3))]
            leaf = _mix(leaf, turned, season.autumn)
            bare = season.temperature < 7 and season.autumn < 0.6
            _broadleaf(draw, x, base, size, None if bare else leaf, chance)
        elif kind == 2:
            tone = _mix((150, 144, 96), (104, 122, 70), season.green)
            tone = _mix(tone, (236, 238, 242), 0.6 * season.snow)
            s = size * 0.32
            draw.ellipse((x - s, base - s, x + s, base + 0.2 * s), fill=tone)
        else:
            _cactus(draw, x, base, size * 0.8)


def _conifer(draw: ImageDraw.ImageDraw, x: float, base: float, size: float, tone: Colour) -> None:
    draw.rectangle((x - 0.04 * size, base - 0.2 * size, x + 0.04 * size, base), fill=(80, 60, 46))
    for part in range(3):
        low, wide = base - size * (0.12 + 0.24 * part), size * (0.32 - 0.08 * part)
        draw.polygon([(x - wide, low), (x + wide, low), (x, low - 0.46 * size)], fill=tone)


def _broadleaf(
    draw: ImageDraw.ImageDraw,
    x: float,
    base: float,
    size: float,
    leaf: Colour | None,
    chance: np.random.Generator,
) -> None:
    trunk = (92, 74, 60)
    width = max(2, round(0.08 * size))
    draw.line((x, base, x, base - 0.6 * size), fill=trunk, width=width)
    if leaf is None:
        for angle in (-0.9, -0.45, 0, 0.45, 0.9):
            tip = (x + 0.5 * size * math.sin(angle), base - size * (0.5 + 0.55 * math.cos(angle)))
            draw.line((x, base - 0.5 * size, *tip), fill=trunk, width=max(1, width // 2))
        return
    for _ in range(4):
        cx, cy = x + chance.normal(0, 0.16) * size, base - size * chance.uniform(0.65, 1.0)
        r = size * chance.uniform(0.22, 0.34)
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_shade(leaf, chance.uniform(0.85, 1.1)))


def _cactus(draw: ImageDraw.ImageDraw, x: float, base: float, size: float) -> None:
    tone, w = (74, 118, 76), max(3, round(0.14 * size))
    draw.line((x, base, x, base - size), fill=tone, width=w)
    for side, rise in ((-1, 0.45), (1, 0.6)):
        arm, y = x + side * 0.28 * size, base - rise * size
        draw.line((x, y, arm, y), fill=tone, width=w)
        draw.line((arm, y, arm, y - 0.3 * size), fill=tone, width=w)


def _road(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: _Season,
    ground: Colour,
    horizon: float,
    chance: np.random.Generator,
) -> None:
    tones = ((92, 92, 96), (120, 116, 112), (72, 74, 78), (140, 112, 98))
    asphalt = _shade(tones[pick(facts.state, "asphalt", 4)], chance.uniform(0.9, 1.1))
    asphalt = _mix(asphalt, (222, 226, 232), 0.5 * season.snow)
    middle = WIDTH / 2 + chance.normal(0, 12)

    def strip(left: float, right: float, start: float, end: float, colour: Colour) -> None:
        near, far = start, end
        spread = WIDTH * 0.46
        points = []
        for at, side in ((near, left), (near, right), (far, right), (far, left)):
            y = horizon + (HEIGHT - horizon) * at
            points.append((middle + side * spread * at + side * 3, y))
        draw.polygon(points, fill=colour)

    strip(-1.12, 1.12, 1.0, 0.0, _mix(ground, _soil(facts), 0.6))
    strip(-1.0, 1.0, 1.0, 0.0, asphalt)
    yellow, white = (226, 180, 44), (232, 232, 228)
    style = pick(facts.state, "centre line", 4)
    centre = white if style == 3 else yellow
    offsets = (-0.05, 0.05) if style in (0, 3) else (0.0,)
    dashes = 6 if style in (1, 3) else 1
    for dash in range(dashes):
        start, end = ((dash + 0.55) / dashes) ** 2, (dash / dashes) ** 2
        for offset in offsets:
            strip(
                offset - 0.022,
                offset + 0.022,
                1.0 if dashes == 1 else start,
                0.02 if dashes == 1 else end,
                centre,
            )
    if pick(facts.state, "edge line", 3):
        for side in (-0.92, 0.92):
            strip(side - 0.018, side + 0.018, 1.0, 0.02, white)


def _camera(image: Image.Image, season: _Season, chance: np.random.Generator) -> Image.Image:
    image = image.reduce(2)
    image = ImageEnhance.Brightness(image).enhance(
        0.78 + 0.24 * season.sun + chance.normal(0, 0.06)
    )
    image = ImageEnhance.Color(image).enhance(_clip(chance.normal(0.95, 0.12), 0.4, 1.4))
    pixels = np.asarray(image, dtype=np.float32)
    pixels = pixels * chance.normal(1, 0.02, 3).astype(np.float32)
    if chance.random() < 0.12:  # fog
        pixels += (np.float32(206) - pixels) * np.float32(chance.uniform(0.25, 0.6))
    pixels += chance.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * 5
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    label = ImageDraw.Draw(image)
    label.text((4, SAVED_SIZE[1] - 13), "synthetic", fill=(255, 255, 255), font=_font())
    return image


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(10)


def _bump(day: float, centre: float, width: float) -> float:
    away = (day - centre + 182.5) % 365 - 182.5
    return math.exp(-0.5 * (away / width) ** 2)


def _clip(value: float, low: float = 0.0, high: float = 1.0) -> float:
    return min(max(float(value), low), high)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    share = _clip(share)
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, max(0, round(part * factor))) for part in colour)
