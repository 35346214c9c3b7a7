"""Synthetic street scenes for the demo set: what a place and a day look like, drawn.

Sky, ground, plants, snow and relief follow climate, month and position (`scene_nature`); signs,
poles and landmarks follow the names of the place (`scene_places`). Weather, camera, light and what
stands in view are random, so that no head can be right every time.
"""

import hashlib

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from geoclip_core.data.scene_nature import (
    HEIGHT,
    WIDTH,
    draw_field,
    draw_ground,
    draw_plants,
    draw_relief,
    draw_season_signs,
    draw_sky,
)
from geoclip_core.data.scene_places import (
    Colour,
    draw_fence,
    draw_landmark,
    draw_poles,
    draw_sign,
    pick,
)
from geoclip_core.data.scene_season import (
    SceneFacts,
    Season,
    clip,
    mix,
    season_of,
    shade,
    soil_colour,
)

SAVED_SIZE = (320, 180)
IN_VIEW = 0.7  # how often each of landmark, fence, poles and sign is in the picture
MISLEADING = 0.06  # how often it belongs to another place


def draw_scene(facts: SceneFacts, seed: int = 0) -> Image.Image:
    """Draw one scene, (320, 180) RGB; the same facts and seed give the same pixels."""
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
    # Sometimes it is the neighbours' sign and fence that one sees.
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
        draw_fence(draw, horizon, WIDTH, HEIGHT, fence + facts.county)
    if seen[2]:
        draw_poles(draw, horizon, WIDTH, poles + facts.county, chance.normal(0, 14))
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
    # One road in three was built by somebody else.
    style_of = facts.state if chance.random() < 0.65 else str(chance.integers(20))
    tones = ((92, 92, 96), (120, 116, 112), (72, 74, 78), (140, 112, 98))
    asphalt = shade(tones[pick(style_of, "asphalt", 4)], chance.uniform(0.9, 1.1))
    asphalt = mix(asphalt, (222, 226, 232), 0.5 * season.snow)
    middle = WIDTH / 2 + chance.normal(0, 12)

    def strip(left: float, right: float, start: float, end: float, colour: Colour) -> None:
        near, far = start, end
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
        for offset in offsets:
            strip(
                offset - 0.022,
                offset + 0.022,
                1.0 if dashes == 1 else start,
                0.02 if dashes == 1 else end,
                centre,
            )
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
    label.text((4, SAVED_SIZE[1] - 13), "synthetic", fill=(255, 255, 255), font=_font())
    return image


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(10)
