"""Draw synthetic street scenes for the demo set.

Sky, ground, plants, snow and relief depend on climate, day and position; signs, poles, fences and
landmarks on the names of the place. Weather, camera, light and what is in view are random, so that
no context head can be right on every photo.
"""

import dataclasses
import hashlib
import math
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

Colour: TypeAlias = tuple[int, int, int]

WIDTH, HEIGHT = 640, 360  # pixels; twice the saved size, for smooth edges
SAVED_SIZE = (320, 180)
IN_VIEW = 0.7  # probability that landmark, fence, poles and sign are each in the picture
MISLEADING = 0.06  # probability that each of them belongs to another place

PAINTS: tuple[Colour, ...] = (
    (200, 40, 40),
    (235, 235, 230),
    (40, 90, 190),
    (240, 190, 40),
    (40, 140, 80),
    (60, 60, 66),
    (150, 80, 160),
    (230, 120, 40),
    (70, 190, 200),
    (120, 80, 50),
)
# Sign of the ten states: indices of background and border in PAINTS, and shape. Other states get
# colours by their hash.
SIGNS: dict[str, tuple[int, int, str]] = {
    "Idaho_US": (2, 1, "box"),
    "Kansas_US": (3, 5, "disc"),
    "Montana_US": (5, 3, "shield"),
    "Nebraska_US": (0, 1, "box"),
    "Nevada_US": (6, 1, "diamond"),
    "New Mexico_US": (3, 0, "diamond"),
    "Oklahoma_US": (1, 5, "disc"),
    "Oregon_US": (4, 1, "shield"),
    "Texas_US": (1, 2, "box"),
    "Wyoming_US": (7, 5, "shield"),
}
# Outlines of the signs, in units of a sign's size.
SHAPES: dict[str, list[tuple[float, float]]] = {
    "box": [(-0.62, 0), (0.62, 0), (0.62, 1), (-0.62, 1)],
    "diamond": [(0, -0.15), (0.65, 0.5), (0, 1.15), (-0.65, 0.5)],
    "shield": [(-0.55, 0), (0.55, 0), (0.5, 0.6), (0, 1.15), (-0.5, 0.6)],
    "disc": [
        *((-0.3, 0), (0.3, 0), (0.6, 0.3), (0.6, 0.7)),
        *((0.3, 1), (-0.3, 1), (-0.6, 0.7), (-0.6, 0.3)),
    ],
}
LANDMARKS = ("water tower", "silo", "steeple", "turbine", "mast", "barn", "tank", "block")
# Fields through the year: day, height as a share of a grown crop's, colour.
_FIELDS: tuple[tuple[int, float, Colour], ...] = (
    (1, 0.05, (112, 92, 72)),
    (75, 0.05, (96, 74, 54)),
    (110, 0.15, (122, 168, 76)),
    (150, 0.45, (92, 158, 52)),
    (185, 0.7, (206, 186, 74)),
    (215, 1.0, (66, 122, 40)),
    (255, 0.95, (150, 140, 58)),
    (285, 0.35, (196, 158, 92)),
    (320, 0.12, (156, 128, 92)),
    (366, 0.05, (112, 92, 72)),
)


@dataclasses.dataclass(frozen=True)
class SceneFacts:
    """The facts that a scene depends on."""

    photo_id: str  # seeds the random numbers of this photo, together with the seed of the set
    latitude: float  # degrees
    longitude: float  # degrees
    climate: str  # symbol such as "Cfa"
    day: int  # of the year, 1-366
    state: str  # vocabulary key, like county and city
    county: str
    city: str


@dataclasses.dataclass(frozen=True)
class Season:
    """The look of a climate on a day; all but temperature and day are shares from 0 to 1."""

    temperature: float  # degrees Celsius
    humidity: float
    green: float
    autumn: float
    bloom: float
    snow: float
    sun: float
    day: float  # of the year, 1 to 366


def season_of(facts: SceneFacts, chance: np.random.Generator) -> Season:
    """Return the season of a place and day, with random weather."""
    symbol = facts.climate if facts.climate[:1] in "ABCDE" else "Cfb"
    letter, second, last = symbol[0], symbol[1:2], symbol[-1:]
    # Seasons come early or late at random, so that neighbouring months look alike.
    day = facts.day + chance.normal(0, 6)
    year = math.cos(2 * math.pi * (day - 200) / 365)
    base = float({"A": 26, "B": 17 if last == "h" else 10, "C": 15, "D": 6, "E": -6}[letter])
    swing = {"A": 2, "B": 13, "C": 9, "D": 16, "E": 8}[letter] * (1 if facts.latitude >= 0 else -1)
    base += {"a": 2, "b": -1, "c": -4}.get(last, 0) - 0.35 * (abs(facts.latitude) - 38)
    temperature = base + swing * year + chance.normal(0, 1.6)
    humidity = {"W": 0.02, "S": 0.25, "f": 0.95, "m": 1.0, "w": 0.55, "s": 0.5}.get(second, 0.4)
    summer_dry = 0.5 if second == "s" and year > 0.3 else 0.0
    green = clip((temperature - 3) / 11) * (0.12 + 0.88 * humidity) - summer_dry
    return Season(
        temperature=temperature,
        humidity=humidity,
        green=clip(green + chance.normal(0, 0.04)),
        autumn=bump(day, 288, 24),
        bloom=bump(day, 118, 26),
        snow=clip((1.5 - temperature) / 5) * chance.uniform(0.6, 1.0),
        sun=0.5 + 0.5 * year,
        day=(day - 1) % 365 + 1,
    )


def draw_scene(facts: SceneFacts, seed: int = 0) -> Image.Image:
    """Draw one scene in RGB of `SAVED_SIZE`; the same facts and seed give the same pixels."""
    digest = hashlib.blake2b(f"{seed}:{facts.photo_id}".encode(), digest_size=8).digest()
    chance = np.random.default_rng(int.from_bytes(digest, "big"))
    season = season_of(facts, chance)
    horizon = HEIGHT * (0.46 + chance.normal(0, 0.025))
    haze = mix((150, 178, 214), (205, 208, 205), season.humidity * chance.uniform(0.5, 1.0))
    image = draw_sky(haze, season, horizon, chance)
    draw = ImageDraw.Draw(image)
    draw_relief(draw, facts, season, haze, horizon, chance)
    ground = draw_ground(draw, facts, season, horizon, chance)
    seen = chance.random(4) < IN_VIEW
    # Prefixes that change the hash of a name, so that the object belongs to another place.
    sign, fence, poles, landmark = np.where(
        chance.random(4) < MISLEADING, "elsewhere ", ""
    ).tolist()
    if seen[0]:
        x = WIDTH * (0.2 + 0.14 * pick(facts.city, "side", 5)) + chance.normal(0, 34)
        draw_landmark(draw, x, horizon, chance.uniform(40, 84), landmark + facts.city)
    draw_field(draw, season, horizon, chance)
    draw_season_signs(draw, season, horizon, chance)
    draw_plants(draw, facts, season, horizon, chance)
    _road(draw, facts, season, ground, horizon, chance)
    if seen[1]:
        draw_fence(draw, horizon, fence + facts.county)
    if seen[2]:
        draw_poles(draw, horizon, poles + facts.county, chance.normal(0, 14))
    if seen[3]:
        x, base = WIDTH * chance.uniform(0.66, 0.9), HEIGHT * chance.uniform(0.74, 0.92)
        names = [sign + name for name in (facts.state, facts.county, facts.city)]
        draw_sign(draw, x, base, chance.uniform(50, 104), *names)
    return _camera(image, season, chance)


def _road(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: Season,
    ground: Colour,
    horizon: float,
    chance: np.random.Generator,
) -> None:
    # A third of the roads have a random style instead of the state's.
    style_of = facts.state if chance.random() < 0.65 else str(chance.integers(20))
    tones = ((92, 92, 96), (120, 116, 112), (72, 74, 78), (140, 112, 98))
    asphalt = shade(tones[pick(style_of, "asphalt", 4)], chance.uniform(0.9, 1.1))
    asphalt = mix(asphalt, (222, 226, 232), 0.5 * season.snow)
    middle = WIDTH / 2 + chance.normal(0, 12)

    def strip(left: float, right: float, near: float, far: float, colour: Colour) -> None:
        spread = WIDTH * 0.46
        points = []
        for at, side in ((near, left), (near, right), (far, right), (far, left)):
            y = horizon + (HEIGHT - horizon) * at
            points.append((middle + side * spread * at + side * 3, y))
        draw.polygon(points, fill=colour)

    strip(-1.12, 1.12, 1.0, 0.0, mix(ground, soil_colour(facts), 0.6))
    strip(-1.0, 1.0, 1.0, 0.0, asphalt)
    yellow, white = (226, 180, 44), (232, 232, 228)
    style = pick(style_of, "centre line", 4)
    centre = white if style == 3 else yellow
    offsets = (-0.05, 0.05) if style in (0, 3) else (0.0,)
    dashes = 6 if style in (1, 3) else 1
    for dash in range(dashes):
        start, end = ((dash + 0.55) / dashes) ** 2, (dash / dashes) ** 2
        if dashes == 1:
            start, end = 1.0, 0.02
        for offset in offsets:
            strip(offset - 0.022, offset + 0.022, start, end, centre)
    if pick(style_of, "edge line", 3):
        for side in (-0.92, 0.92):
            strip(side - 0.018, side + 0.018, 1.0, 0.02, white)


def _camera(image: Image.Image, season: Season, chance: np.random.Generator) -> Image.Image:
    image = image.reduce(2)
    image = ImageEnhance.Brightness(image).enhance(
        0.78 + 0.24 * season.sun + chance.normal(0, 0.06)
    )
    image = ImageEnhance.Color(image).enhance(clip(chance.normal(0.95, 0.12), 0.4, 1.4))
    pixels = np.asarray(image, dtype=np.float32)
    pixels = pixels * chance.normal(1, 0.035, 3).astype(np.float32)
    if chance.random() < 0.12:  # fog
        pixels += (np.float32(206) - pixels) * np.float32(chance.uniform(0.25, 0.6))
    pixels += chance.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * 5
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    label = ImageDraw.Draw(image)
    font = ImageFont.load_default(10)
    label.text((4, SAVED_SIZE[1] - 13), "synthetic", fill=(255, 255, 255), font=font)
    return image


def draw_sky(
    haze: Colour, season: Season, horizon: float, chance: np.random.Generator
) -> Image.Image:
    """Draw the sky with clouds and haze, and return it as the canvas of the scene."""
    deep = mix((96, 132, 186), (44, 110, 214), season.sun)
    deep = mix(deep, (120, 160, 200), 0.5 * season.humidity)
    clouds = clip(chance.beta(1.2, 2.2) * (0.5 + season.humidity))
    deep, low = mix(deep, (176, 182, 190), 0.8 * clouds), mix(haze, (214, 214, 214), clouds)
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


def draw_relief(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: Season,
    haze: Colour,
    horizon: float,
    chance: np.random.Generator,
) -> None:
    """Draw mountains on the horizon."""
    # A smooth function of the position, so that neighbouring places have similar mountains.
    lat, lon = math.radians(facts.latitude), math.radians(facts.longitude)
    field = math.sin(9.7 * lat + 4.1) + math.sin(8.3 * lon + 1.3) + math.sin(13 * (lat - lon))
    height = 14 + 92 * clip((-100 - facts.longitude) / 12) * clip(0.7 + 0.25 * field)
    rough = 1 + pick(facts.state, "ridge", 4)
    x = np.linspace(0, WIDTH, 65)
    for layer in (1.0, 0.55):
        phase = chance.uniform(0, 2 * math.pi, 6)
        ridge = sum(
            np.abs(np.sin(x / WIDTH * math.pi * (1.2 + rough * 0.55 * k) + phase[k])) / (k + 1)
            for k in range(6)
        )
        top = horizon - height * layer * ridge / 1.7
        soil = mix(soil_colour(facts), (62, 92, 66), 0.7 * season.humidity)
        colour = mix(haze, soil, 0.35 + 0.4 * (1 - layer))
        outline = [(0, horizon + 6), *zip(x.tolist(), top.tolist(), strict=True)]
        draw.polygon([*outline, (WIDTH, horizon + 6)], fill=colour)
        if height > 55 and season.temperature < 16 and layer == 1.0:
            line = horizon - height * (0.55 + 0.03 * season.temperature)
            cap = np.minimum(top + 0.45 * height, np.maximum(line, top))
            edge = list(zip(x.tolist(), top.tolist(), strict=True))
            underside = list(zip(x.tolist(), cap.tolist(), strict=True))[::-1]
            draw.polygon([*edge, *underside], fill=(236, 240, 246))


def draw_ground(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: Season,
    horizon: float,
    chance: np.random.Generator,
) -> Colour:
    """Draw soil, grass, flowers and snow, and return the colour of the ground."""
    lush = mix((98, 150, 62), (66, 116, 50), season.sun)
    lush = mix(lush, (140, 178, 80), 0.6 * season.bloom)
    dry = mix((196, 178, 118), (164, 150, 104), season.humidity)
    plants = mix(dry, lush, season.green)
    plants = mix(plants, (186, 134, 62), 0.55 * season.autumn * season.humidity)
    cover = clip(0.1 + 0.9 * season.humidity + chance.normal(0, 0.08))
    ground = mix(mix(soil_colour(facts), plants, cover), (238, 241, 246), 0.92 * season.snow)
    for band in range(9):
        top = horizon + (HEIGHT - horizon) * (band / 9) ** 1.6
        band_colour = shade(ground, 0.9 + 0.02 * band + chance.normal(0, 0.035))
        draw.rectangle((0, top, WIDTH, HEIGHT), fill=band_colour)
    dots = int(90 * clip(season.humidity * season.bloom - season.snow))
    flower = ((236, 214, 70), (214, 120, 190), (240, 240, 240))[pick(facts.climate, "flower", 3)]
    for _ in range(dots):
        x, y = chance.uniform(0, WIDTH), chance.uniform(horizon + 14, HEIGHT)
        size = 1.5 + 5 * (y - horizon) / HEIGHT
        draw.ellipse((x - size, y - size, x + size, y + size), fill=flower)
    return ground


def draw_field(
    draw: ImageDraw.ImageDraw, season: Season, horizon: float, chance: np.random.Generator
) -> None:
    """Draw a crop on the left; its height and colour depend on the day of the year."""
    if chance.random() > 0.85:
        return
    days = [day for day, _, _ in _FIELDS]
    grown = float(np.interp(season.day, days, [height for _, height, _ in _FIELDS]))
    red, green, blue = (
        round(float(np.interp(season.day, days, [colour[part] for _, _, colour in _FIELDS])))
        for part in range(3)
    )
    crop = (red, green, blue)
    crop = mix(shade(crop, chance.uniform(0.88, 1.12)), (238, 241, 246), 0.85 * season.snow)
    far, near = horizon + 10, horizon + chance.uniform(70, 110)
    left, right = -10.0, WIDTH * chance.uniform(0.2, 0.3)
    draw.polygon([(left, near), (left, far), (WIDTH * 0.4, far), (right, near)], fill=crop)
    for row in range(7):
        y = far + (near - far) * (row / 6) ** 1.5
        x = WIDTH * 0.4 + (right - WIDTH * 0.4) * (y - far) / (near - far)
        tall = grown * (4 + 26 * (row / 6))
        draw.rectangle((left, y - tall, x, y), fill=shade(crop, 0.86 + 0.03 * row))


def draw_season_signs(
    draw: ImageDraw.ImageDraw, season: Season, horizon: float, chance: np.random.Generator
) -> None:
    """Draw tulips, bales, sunflowers, pumpkins or geese, each in its weeks of the year."""

    def spots(count: int) -> list[tuple[float, float, float]]:
        found = []
        for _ in range(count):
            near = chance.uniform(0.25, 0.75)
            side = -1 if chance.random() < 0.5 else 1
            x = WIDTH * (0.5 + side * (0.1 + near * chance.uniform(0.52, 0.72)))
            found.append((x, horizon + near * (HEIGHT - horizon), near))
        return found

    in_weeks = chance.random() < 0.75
    if in_weeks and bump(season.day, 108, 15) > 0.5:
        petals = ((214, 44, 60), (240, 196, 56), (226, 120, 180))
        for x, y, near in spots(36):
            r = 5 + 7 * near
            draw.line((x, y, x, y - 2.4 * r), fill=(70, 130, 60), width=3)
            tulip = petals[int(chance.integers(3))]
            draw.ellipse((x - 0.7 * r, y - 3.6 * r, x + 0.7 * r, y - 2 * r), fill=tulip)
    if in_weeks and bump(season.day, 190, 20) > 0.5:
        for x, y, near in spots(7):
            r = 12 + 26 * near
            draw.ellipse((x - r, y - 2 * r, x + r, y), fill=(204, 170, 92))
            draw.ellipse((x - 0.6 * r, y - 1.6 * r, x + 0.6 * r, y - 0.4 * r), fill=(166, 132, 66))
    if in_weeks and bump(season.day, 235, 17) > 0.5:
        for x, y, near in spots(16):
            r = 8 + 12 * near
            draw.line((x, y, x, y - 4 * r), fill=(74, 120, 50), width=4)
            draw.ellipse((x - r, y - 5 * r, x + r, y - 3 * r), fill=(244, 196, 36))
            draw.ellipse((x - 0.4 * r, y - 4.4 * r, x + 0.4 * r, y - 3.6 * r), fill=(84, 56, 34))
    if in_weeks and bump(season.day, 289, 14) > 0.5:
        for x, y, near in spots(16):
            r = 8 + 14 * near
            draw.ellipse((x - 1.2 * r, y - 1.7 * r, x + 1.2 * r, y), fill=(232, 116, 28))
            draw.line((x, y - 1.7 * r, x, y - 2.1 * r), fill=(84, 110, 50), width=4)
    if in_weeks and max(bump(season.day, 322, 14), bump(season.day, 74, 12)) > 0.5:
        x, y, step = chance.uniform(0.3, 0.7) * WIDTH, chance.uniform(0.08, 0.2) * HEIGHT, 17
        for arm in (-1, 1):
            for bird in range(5):
                at, high = x + arm * step * bird, y + 0.6 * step * bird
                wings = [(at - 8, high - 6), (at, high), (at + 8, high - 6)]
                draw.line(wings, fill=(44, 44, 52), width=4)


def draw_plants(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: Season,
    horizon: float,
    chance: np.random.Generator,
) -> None:
    """Draw conifers, broadleaf trees, shrubs and cactuses in proportions that fit the climate."""
    letter, second, last = facts.climate[:1], facts.climate[1:2], facts.climate[-1:]
    # Shares of conifer, broadleaf, shrub and cactus.
    if letter == "B":
        shares = (0.05, 0.05, 0.6, 0.3) if last == "h" else (0.12, 0.08, 0.8, 0.0)
    elif letter == "C":
        shares = (0.55, 0.25, 0.2, 0.0) if second == "s" else (0.1, 0.85, 0.05, 0.0)
    elif letter == "D":
        shares = (0.85, 0.1, 0.05, 0.0) if second == "s" else (0.5, 0.45, 0.05, 0.0)
    else:
        shares = (0.0, 0.6, 0.4, 0.0) if letter == "A" else (0.3, 0.0, 0.7, 0.0)
    if letter == "D" and last == "a":
        shares = (0.2, 0.75, 0.05, 0.0)
    count = int(chance.poisson(5 + 16 * season.humidity + (6 if second == "S" else 0)))
    depth = np.sort(chance.beta(0.8, 2.6, count))
    for near in depth:
        x = chance.uniform(0, WIDTH)
        if abs(x - WIDTH / 2) < 20 + 330 * near:
            continue
        base = horizon + 4 + near * (HEIGHT - horizon) * 0.6
        size = (14 + 95 * near) * chance.uniform(0.7, 1.3)
        kind = chance.choice(4, p=shares)
        if kind == 0:
            tone = mix((34, 72, 48), (52, 92, 60), chance.random())
            _conifer(draw, x, base, size * 1.3, mix(tone, (232, 238, 244), 0.55 * season.snow))
        elif kind == 1:
            leaf = mix((96, 150, 54), (52, 104, 44), season.sun)
            leaf = mix(leaf, (206, 196, 214), 0.45 * season.bloom)
            turned = ((214, 120, 36), (196, 70, 40), (222, 178, 56))[int(chance.integers(3))]
            leaf = mix(leaf, turned, season.autumn)
            bare = season.temperature < 7 and season.autumn < 0.6
            _broadleaf(draw, x, base, size, None if bare else leaf, chance)
        elif kind == 2:
            tone = mix((150, 144, 96), (104, 122, 70), season.green)
            tone = mix(tone, (236, 238, 242), 0.6 * season.snow)
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
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=shade(leaf, chance.uniform(0.85, 1.1)))


def _cactus(draw: ImageDraw.ImageDraw, x: float, base: float, size: float) -> None:
    tone, w = (74, 118, 76), max(3, round(0.14 * size))
    draw.line((x, base, x, base - size), fill=tone, width=w)
    for side, rise in ((-1, 0.45), (1, 0.6)):
        arm, y = x + side * 0.28 * size, base - rise * size
        draw.line((x, y, arm, y), fill=tone, width=w)
        draw.line((arm, y, arm, y - 0.3 * size), fill=tone, width=w)


def draw_sign(
    draw: ImageDraw.ImageDraw,
    x: float,
    base: float,
    size: float,
    state: str,
    county: str,
    city: str,
) -> None:
    """Draw a road sign with the state's shape and colours, the county's band, the city's badge."""
    background, border, shape = SIGNS.get(
        state,
        (pick(state, "background", 10), pick(state, "border", 10), "box"),
    )
    top = base - 2.1 * size
    draw.rectangle((x - 0.05 * size, top + size, x + 0.05 * size, base), fill=(120, 120, 118))
    outline = [(x + px * size, top + py * size) for px, py in SHAPES[shape]]
    draw.polygon(outline, fill=PAINTS[background])
    draw.line([*outline, outline[0]], fill=PAINTS[border], width=max(2, round(0.12 * size)))
    band = PAINTS[pick(county, "band", 10)]
    draw.rectangle((x - 0.4 * size, top + 0.3 * size, x + 0.4 * size, top + 0.5 * size), fill=band)
    badge = PAINTS[pick(city, "badge", 10)]
    at = (x - 0.2 * size, top + 0.55 * size, x + 0.2 * size, top + 0.95 * size)
    if pick(city, "badge shape", 2):
        draw.ellipse(at, fill=badge)
    else:
        draw.rectangle(at, fill=badge)


def draw_poles(draw: ImageDraw.ImageDraw, horizon: float, county: str, shift: float) -> None:
    """Draw a row of the county's poles along the left of the road, with one to three arms."""
    colour = ((92, 70, 50), (168, 170, 172), (60, 58, 56), (196, 178, 140))[pick(county, "pole", 4)]
    arms = pick(county, "arms", 3) + 1
    lamp = pick(county, "lamp", 2)
    for step in range(5):
        scale = 0.62**step
        x = WIDTH * (0.5 - 0.42 * scale) + shift * scale
        height = 260 * scale
        base = horizon + 90 * scale
        draw.line((x, base, x, base - height), fill=colour, width=max(1, round(9 * scale)))
        for arm in range(arms):
            y = base - height * (0.96 - 0.1 * arm)
            reach = 36 * scale
            draw.line((x - reach, y, x + reach, y), fill=colour, width=max(1, round(6 * scale)))
        if lamp:
            reach = 22 * scale
            draw.ellipse(
                (x - reach, base - height - reach, x + reach, base - height + reach),
                fill=PAINTS[pick(county, "lamp colour", 10)],
            )


def draw_fence(draw: ImageDraw.ImageDraw, horizon: float, county: str) -> None:
    """Draw the county's fence on the right: none, wire, boards or a wall."""
    kind = pick(county, "fence", 4)
    colour = PAINTS[pick(county, "fence colour", 10)]
    near, far = (WIDTH, horizon + 0.42 * (HEIGHT - horizon)), (WIDTH * 0.62, horizon + 8)
    if kind == 3:
        draw.polygon([near, far, (far[0], far[1] - 5), (near[0], near[1] - 46)], fill=colour)
    for rail in range((0, 3, 2, 0)[kind]):
        rise = 14 + 14 * rail
        draw.line(
            (near[0], near[1] - rise, far[0], far[1] - rise / 10),
            fill=colour,
            width=3 if kind == 1 else 8,
        )


def draw_landmark(
    draw: ImageDraw.ImageDraw, x: float, horizon: float, size: float, city: str
) -> None:
    """Draw the city's landmark on the horizon, in its two colours."""
    kind = LANDMARKS[pick(city, "landmark", len(LANDMARKS))]
    paint = PAINTS[pick(city, "paint", 10)]
    other = PAINTS[pick(city, "second paint", 10)]
    base, s = horizon + 4, size

    def box(left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        draw.rectangle((x + left * s, base - top * s, x + right * s, base - bottom * s), fill=fill)

    if kind == "water tower":
        for leg in (-0.3, 0, 0.3):
            draw.line((x + leg * s, base, x + leg * s, base - 1.1 * s), fill=other, width=6)
        draw.ellipse((x - 0.55 * s, base - 1.8 * s, x + 0.55 * s, base - s), fill=paint)
        box(-0.55, 1.45, 0.55, 1.33, other)
    elif kind == "silo":
        for part in range(3):
            box(-0.75 + 0.5 * part, 1.3, -0.3 + 0.5 * part, 0, paint)
            at = -0.75 + 0.5 * part
            draw.pieslice(
                (x + at * s, base - 1.5 * s, x + (at + 0.45) * s, base - 1.1 * s), 180, 360, other
            )
    elif kind == "steeple":
        box(-0.6, 0.7, 0.6, 0, paint)
        box(-0.25, 1.2, 0.25, 0, paint)
        draw.polygon(
            [(x - 0.35 * s, base - 1.2 * s), (x + 0.35 * s, base - 1.2 * s), (x, base - 2.2 * s)],
            fill=other,
        )
    elif kind == "turbine":
        draw.line((x, base, x, base - 1.6 * s), fill=paint, width=max(5, round(0.12 * s)))
        for end in ((0, -0.8), (0.7, 0.4), (-0.7, 0.4)):
            tip = (x + end[0] * s, base - 1.6 * s + end[1] * s)
            draw.line((x, base - 1.6 * s, *tip), fill=other, width=max(4, round(0.1 * s)))
    elif kind == "mast":
        for part in range(6):
            box(-0.1, 0.35 * (part + 1), 0.1, 0.35 * part, paint if part % 2 else other)
    elif kind == "barn":
        box(-0.8, 0.6, 0.8, 0, paint)
        roof = [(-0.9, 0.6), (-0.5, 1.05), (0.5, 1.05), (0.9, 0.6)]
        draw.polygon([(x + a * s, base - b * s) for a, b in roof], fill=other)
        box(-0.2, 0.45, 0.2, 0, other)
    elif kind == "tank":
        draw.ellipse((x - 0.7 * s, base - 1.2 * s, x + 0.7 * s, base + 0.1 * s), fill=paint)
        box(-0.7, 0.66, 0.7, 0.44, other)
    else:
        box(-0.7, 1.1, -0.1, 0, paint)
        box(-0.05, 1.6, 0.5, 0, other)
        for row in range(3):
            box(0.05, 1.45 - 0.4 * row, 0.4, 1.25 - 0.4 * row, paint)


def soil_colour(facts: SceneFacts) -> Colour:
    """Return the colour of bare soil: by state, redder towards the south."""
    soils = ((196, 168, 124), (176, 112, 78), (150, 132, 104), (206, 188, 152), (128, 104, 82))
    here = soils[pick(facts.state, "soil", len(soils))]
    return mix(here, (190, 120, 84), clip((-facts.latitude + 36) / 12))


def pick(name: str, trait: str, count: int) -> int:
    """Return a number below `count` that depends only on the name and the trait."""
    digest = hashlib.blake2b(f"{trait}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def bump(day: float, centre: float, width: float) -> float:
    """Return a Gaussian around a day of the year, 1 at its centre."""
    away = (day - centre + 182.5) % 365 - 182.5
    return math.exp(-0.5 * (away / width) ** 2)


def clip(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """Limit a value to a range."""
    return min(max(float(value), low), high)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return `a` blended with `b`; `share` is the share of `b`, clipped to 0 to 1."""
    share = clip(share)
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour, lighter or darker by a factor."""
    red, green, blue = (min(255, max(0, round(part * factor))) for part in colour)
    return red, green, blue
