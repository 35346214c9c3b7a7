"""Pictures that are no photos of a place: noise, screenshots, documents, maps, portraits.

Drawn with Pillow and NumPy from a seed, to measure whether a model notices that they are unlike its
training photos. They never take part in fitting anything.
"""

import string
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Generator = np.random.Generator


def noise(rng: Generator) -> Image.Image:
    """Return white or 1/f noise, in colour or grey."""
    height, width = int(rng.integers(300, 700)), int(rng.integers(400, 1000))
    pixels = rng.normal(size=(height, width, 3))
    if rng.random() < 0.5:
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
        fall = 1 / np.maximum(frequency, 1 / width) ** rng.uniform(0.5, 1.5)
        spectrum = np.fft.fft2(pixels, axes=(0, 1)) * fall[..., None]
        pixels = np.real(np.fft.ifft2(spectrum, axes=(0, 1)))
    if rng.random() < 0.3:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    pixels = 128 + 50 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def screenshot(rng: Generator) -> Image.Image:
    """Return a desktop with windows, menus, text and buttons."""
    width, height = ((1280, 720), (1024, 768), (720, 1280))[int(rng.integers(3))]
    dark = rng.random() < 0.4
    paper, ink = ((30, 32, 38), (210, 214, 220)) if dark else ((248, 249, 250), (40, 44, 52))
    accent = _colour(rng)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width, 44), fill=accent)
    _lines(draw, rng, (16, 12, width // 2, 40), 16, (255, 255, 255))
    side = int(width * rng.uniform(0.15, 0.3))
    draw.rectangle((0, 44, side, height), fill=_mixed(paper, ink, 0.08))
    _lines(draw, rng, (16, 64, side - 12, height - 20), 14, ink, spacing=2.2)
    _lines(draw, rng, (side + 24, 70, width - 24, height // 2), 15, ink)
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(side + 20, width - 140), rng.uniform(height // 2, height - 60)
        draw.rounded_rectangle((x, y, x + 120, y + 34), 6, fill=_mixed(paper, accent, 0.7))
        _lines(draw, rng, (x + 10, y + 8, x + 110, y + 30), 13, (255, 255, 255))
    return image


def document(rng: Generator) -> Image.Image:
    """Return a page of text, sometimes tilted and photographed with uneven light."""
    paper: Colour = tuple(int(v) for v in rng.integers(232, 256, 3))  # type: ignore[assignment]
    image = Image.new("RGB", (800, 1100), paper)
    draw = ImageDraw.Draw(image)
    ink: Colour = (int(rng.integers(0, 60)),) * 3
    _lines(draw, rng, (90, 80, 710, 130), 30, ink)
    size = int(rng.integers(13, 20))
    top = 150
    while top < 980:
        bottom = min(top + int(rng.integers(80, 260)), 1020)
        _lines(draw, rng, (90, top, 710, bottom), size, ink)
        top = bottom + 24
    if rng.random() < 0.5:
        image = image.rotate(rng.uniform(-4, 4), expand=True, fillcolor=(120, 100, 85))
        shade = np.linspace(rng.uniform(0.6, 0.9), 1.0, image.width)[None, :, None]
        image = Image.fromarray((np.asarray(image) * shade).astype(np.uint8))
    return image


def street_map(rng: Generator) -> Image.Image:
    """Return a map with land, water, parks, roads and names."""
    size = 900
    image = Image.new("RGB", (size, size), (242, 239, 233))
    draw = ImageDraw.Draw(image)
    for colour, count in (((170, 211, 223), 2), ((200, 226, 180), 5), ((222, 214, 204), 6)):
        for _ in range(count):
            centre, radius = rng.uniform(0, size, 2), rng.uniform(60, 260)
            angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
            reach = radius * rng.uniform(0.6, 1.2, 14)
            outline = centre + np.c_[np.cos(angles) * reach, np.sin(angles) * reach]
            draw.polygon([tuple(point) for point in outline], fill=colour)
    for thick, colour in ((3, (255, 255, 255)), (6, (252, 214, 164)), (10, (232, 146, 162))):
        for _ in range({3: 40, 6: 7, 10: 2}[thick]):
            at, heading, path = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), []
            for _ in range(24):
                path.append(tuple(at))
                heading += rng.normal(0, 0.15)
                at = at + 45 * np.array([np.cos(heading), np.sin(heading)])
            draw.line(path, fill=(180, 180, 180), width=thick + 2)
            draw.line(path, fill=colour, width=thick)
    for _ in range(24):
        x, y = rng.uniform(0, size - 120, 2)
        draw.text(
            (x, y), _words(rng, 1).title(), fill=(70, 70, 70), font=_font(int(rng.integers(12, 24)))
        )
    return image


def portrait(rng: Generator) -> Image.Image:
    """Return a drawn head and shoulders before a plain background."""
    size = 800
    backdrop = _colour(rng)
    image = Image.new("RGB", (size, size), backdrop)
    draw = ImageDraw.Draw(image)
    skin = _mixed((255, 224, 196), (92, 58, 40), rng.random())
    hair, shirt = _mixed((30, 20, 15), (210, 170, 110), rng.random()), _colour(rng)
    x, y, w, h = (
        size / 2 + rng.normal(0, 20),
        size * 0.43,
        rng.uniform(150, 185),
        rng.uniform(200, 240),
    )
    draw.ellipse((x - w * 1.9, y + h, x + w * 1.9, y + h + 520), fill=shirt)
    draw.rectangle(
        (x - w * 0.4, y + h * 0.6, x + w * 0.4, y + h * 1.2), fill=_mixed(skin, (0, 0, 0), 0.12)
    )
    draw.ellipse((x - w * 1.12, y - h * 1.15, x + w * 1.12, y + h * 0.7), fill=hair)
    draw.ellipse((x - w, y - h, x + w, y + h), fill=skin)
    draw.pieslice((x - w * 1.02, y - h * 1.05, x + w * 1.02, y + h * 0.4), 180, 360, fill=hair)
    draw.ellipse((x - w, y - h * 0.45, x + w, y + h), fill=skin)
    for side in (-1, 1):
        eye = x + side * w * 0.42
        draw.ellipse((eye - 26, y - 30, eye + 26, y + 4), fill=(250, 250, 250))
        draw.ellipse(
            (eye - 12, y - 26, eye + 12, y), fill=_mixed((40, 70, 110), (70, 45, 20), rng.random())
        )
        draw.arc((eye - 40, y - 66, eye + 40, y - 10), 200, 340, fill=hair, width=9)
        draw.ellipse((x + side * w - 22, y - 30, x + side * w + 22, y + 50), fill=skin)
    draw.polygon(
        [(x, y - 10), (x - 24, y + 78), (x + 24, y + 78)], fill=_mixed(skin, (0, 0, 0), 0.12)
    )
    draw.chord((x - 62, y + 84, x + 62, y + 150), 10, 170, fill=(176, 70, 74))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 4)))
    light = 1 - 0.35 * np.linspace(0, 1, size)[None, :, None] * rng.uniform(0, 1)
    grain = rng.normal(0, 4, (size, size, 1))
    return Image.fromarray((np.asarray(image) * light + grain).clip(0, 255).astype(np.uint8))


KINDS: dict[str, Callable[[Generator], Image.Image]] = {
    "noise": noise,
    "screenshot": screenshot,
    "document": document,
    "map": street_map,
    "portrait": portrait,
}
"""Name -> function that draws a picture from a random generator."""


def pictures(count: int, seed: int = 0) -> dict[str, list[Image.Image]]:
    """Return so many pictures of each kind."""
    return {
        kind: [draw(np.random.default_rng([seed, number, index])) for index in range(count)]
        for number, (kind, draw) in enumerate(KINDS.items())
    }


def _lines(
    draw: ImageDraw.ImageDraw,
    rng: Generator,
    box: tuple[float, float, float, float],
    size: int,
    colour: Colour,
    spacing: float = 1.45,
) -> None:
    """Fill a box (left, top, right, bottom) with lines of words."""
    left, top, right, bottom = box
    font, y = _font(size), top
    while y + size <= bottom:
        line = _words(rng, max(1, int((right - left) / (size * 3.6))))
        while line and draw.textlength(line, font=font) > right - left:
            line = line[:-1]
        draw.text((left, y), line, fill=colour, font=font)
        y += size * spacing


def _words(rng: Generator, count: int) -> str:
    letters = np.array(list(string.ascii_lowercase + "aeiouaeiou"))
    return " ".join("".join(rng.choice(letters, int(rng.integers(2, 10)))) for _ in range(count))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(int(size))


def _colour(rng: Generator) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(40, 200, 3))
    return red, green, blue


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
