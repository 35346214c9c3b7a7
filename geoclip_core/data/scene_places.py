"""What makes a synthetic place recognisable: signs, poles, fences and landmarks drawn by name.

Scenery alone cannot tell two towns apart, so the demo set gives every state its road signs, every
county its poles and fences, and every city a landmark. Which one is a hash of the name: nothing is
true of the real place.
"""

import hashlib
from typing import TypeAlias

from PIL.ImageDraw import ImageDraw

Colour: TypeAlias = tuple[int, int, int]

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
# Sign background, border and shape of the ten states; other states get one by their hash.
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
LANDMARKS = ("water tower", "silo", "steeple", "turbine", "mast", "barn", "tank", "block")


def pick(name: str, trait: str, count: int) -> int:
    """A number below `count` that depends on the name and the trait only."""
    digest = hashlib.blake2b(f"{trait}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def draw_sign(
    draw: ImageDraw, x: float, base: float, size: float, state: str, county: str, city: str
) -> None:
    """A road sign: the state's shape and colours, the county's band, the city's badge."""
    background, border, shape = SIGNS.get(
        state,
        (pick(state, "background", 10), pick(state, "border", 10), "box"),
    )
    top = base - 2.1 * size
    draw.rectangle((x - 0.05 * size, top + size, x + 0.05 * size, base), fill=(120, 120, 118))
    points = {
        "box": [(-0.62, 0), (0.62, 0), (0.62, 1), (-0.62, 1)],
        "diamond": [(0, -0.15), (0.65, 0.5), (0, 1.15), (-0.65, 0.5)],
        "shield": [(-0.55, 0), (0.55, 0), (0.5, 0.6), (0, 1.15), (-0.5, 0.6)],
        "disc": [
            *((-0.3, 0), (0.3, 0), (0.6, 0.3), (0.6, 0.7)),
            *((0.3, 1), (-0.3, 1), (-0.6, 0.7), (-0.6, 0.3)),
        ],
    }[shape]
    outline = [(x + px * size, top + py * size) for px, py in points]
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


def draw_poles(draw: ImageDraw, horizon: float, width: int, county: str, shift: float) -> None:
    """A row of poles running to the horizon on the left: wood or steel, one to three arms."""
    colour = ((92, 70, 50), (168, 170, 172), (60, 58, 56), (196, 178, 140))[pick(county, "pole", 4)]
    arms = pick(county, "arms", 3) + 1
    lamp = pick(county, "lamp", 2)
    for step in range(5):
        scale = 0.62**step
        x = width * (0.5 - 0.42 * scale) + shift * scale
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


def draw_fence(draw: ImageDraw, horizon: float, width: int, height: int, county: str) -> None:
    """A fence on the right: none, wire, board or wall, in the county's colour."""
    kind = pick(county, "fence", 4)
    colour = PAINTS[pick(county, "fence colour", 10)]
    near, far = (width, horizon + 0.42 * (height - horizon)), (width * 0.62, horizon + 8)
    if kind == 3:
        draw.polygon([near, far, (far[0], far[1] - 5), (near[0], near[1] - 46)], fill=colour)
    for rail in range((0, 3, 2, 0)[kind]):
        rise = 14 + 14 * rail
        draw.line(
            (near[0], near[1] - rise, far[0], far[1] - rise / 10),
            fill=colour,
            width=3 if kind == 1 else 8,
        )


def draw_landmark(draw: ImageDraw, x: float, horizon: float, size: float, city: str) -> None:
    """The city's landmark on the horizon, in its two paints."""
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
