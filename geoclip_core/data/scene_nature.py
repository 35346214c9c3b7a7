"""Nature in synthetic scenes: sky, relief, ground, fields and plants of a climate and a day."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from geoclip_core.data.scene_places import Colour, pick
from geoclip_core.data.scene_season import SceneFacts, Season, bump, clip, mix, shade, soil_colour

WIDTH, HEIGHT = 640, 360  # drawn at twice the size that is saved, for smooth edges

# Fields through the year: day, share of the height of a grown crop, colour.
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


def draw_sky(
    haze: Colour, season: Season, horizon: float, chance: np.random.Generator
) -> Image.Image:
    """Sky with clouds and haze, the canvas of the scene."""
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
    """Mountains on the horizon: a smooth field over the map, so neighbours look alike."""
    # A smooth field over the map: neighbouring places see similar mountains.
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
            draw.polygon(
                [*edge, *reversed(list(zip(x.tolist(), cap.tolist(), strict=True)))],
                fill=(236, 240, 246),
            )


def draw_ground(
    draw: ImageDraw.ImageDraw,
    facts: SceneFacts,
    season: Season,
    horizon: float,
    chance: np.random.Generator,
) -> Colour:
    """Soil, grass, flowers and snow; returns the colour of the ground."""
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
    """A crop on the left, as grown as the day of the year says."""
    if chance.random() > 0.85:
        return
    days = [day for day, _, _ in _FIELDS]
    grown = float(np.interp(season.day, days, [height for _, height, _ in _FIELDS]))
    crop = tuple(
        round(float(np.interp(season.day, days, [colour[part] for _, _, colour in _FIELDS])))
        for part in range(3)
    )
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
    """Tulips, bales, sunflowers, pumpkins or geese, each in its weeks."""

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
    """Conifers, broadleaf trees, shrubs and cactuses in the shares of the climate."""
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
