"""Make photos that Pillow does not write: with colour profiles, raw files, and broken JPEGs."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

Tags = dict[Any, Any]
"""Tag of a TIFF -> number, list of numbers, bytes, or another directory."""


def jpeg(image: Image.Image, **options: Any) -> bytes:
    """Return an image as JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def smooth(size: tuple[int, int] = (64, 48), seed: int = 0) -> Image.Image:
    """Return smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def with_scans(image: Image.Image, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    content = jpeg(image, progressive=True)
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def display_p3() -> bytes:
    """Return a profile with the primaries of Display P3 and the curve of sRGB, as phones embed."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*values)

    curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    text = "Display P3".encode("utf-16be")
    name = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    tags = {
        b"desc": name,
        b"cprt": name,
        b"wtpt": xyz(0.96419, 1, 0.82489),
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    start = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, start + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s28s", start + len(data), b"appl", 0x04000000, b"mntr", b"RGB ", b"XYZ ",
        bytes(12), b"acsp", bytes(28),
    )  # fmt: skip
    return head + fixed(0.9642, 1, 0.82491) + bytes(48) + table + data


def tiff(*directories: Tags, marker: bytes = b"") -> bytes:
    """Return a TIFF of directories: {tag: number, list of numbers, bytes, or another directory}.

    Bytes longer than four are stored outside. The value of tag 273 or 513 may be bytes: they are
    stored, and the tag points to them.
    """
    content = bytearray(b"II*\0\0\0\0\0" + marker)

    def stored(data: bytes) -> int:
        content.extend(b"\0" * (len(content) % 2))
        at = len(content)
        content.extend(data)
        return at

    def written(tags: Tags) -> int:
        rows = []
        for tag, value in sorted(tags.items()):
            if isinstance(value, dict):
                value = written(value)
                rows.append((tag, 4, 1, struct.pack("<I", value)))
            elif isinstance(value, bytes) and tag in (273, 513):
                rows.append((tag, 4, 1, struct.pack("<I", stored(value))))
            elif isinstance(value, bytes):
                data = value if len(value) <= 4 else struct.pack("<I", stored(value))
                rows.append((tag, 1 if tag == 50706 else 2, len(value), data.ljust(4, b"\0")))
            else:
                numbers = value if isinstance(value, list) else [value]
                kind = 4 if max(numbers) > 65535 or tag == 34853 else 3
                data = struct.pack(f"<{len(numbers)}{'I' if kind == 4 else 'H'}", *numbers)
                data = data if len(data) <= 4 else struct.pack("<I", stored(data))
                rows.append((tag, kind, len(numbers), data.ljust(4, b"\0")))
        table = struct.pack("<H", len(rows))
        for tag, kind, count, data in rows:
            table += struct.pack("<HHI", tag, kind, count) + data
        return stored(table + bytes(4))

    previous = 4
    for tags in directories:
        at = written(tags)
        content[previous : previous + 4] = struct.pack("<I", at)
        previous = at + 2 + 12 * len(tags)
    return bytes(content)


def raw(
    preview: bytes | None, size: tuple[int, int] = (640, 480), kind: str = "DNG", **more: Any
) -> bytes:
    """Return a raw file with a thumbnail, a preview (a JPEG, or None) and an image of a size."""
    makes = {"DNG": b"Google\0", "NEF": b"NIKON CORPORATION\0", "ARW": b"SONY\0", "CR2": b"Canon\0"}
    sensor = {254: 0, 256: size[0], 257: size[1], 259: 1, 262: 32803, 273: bytes(64), 279: 64}
    thumbnail: Tags = {
        254: 1,
        256: 16,
        257: 12,
        258: [8, 8, 8],
        259: 1,
        262: 2,
        277: 3,
        271: makes[kind],
    }
    thumbnail |= {273: bytes(16 * 12 * 3), 278: 12, 279: 16 * 12 * 3} | more
    if kind == "DNG":
        thumbnail[50706] = b"\1\4\0\0"
    shown = {254: 1, 513: preview, 514: len(preview)} if preview else {254: 1}
    if kind == "CR2":
        return tiff(thumbnail, shown, sensor, marker=b"CR\2\0")
    thumbnail[330] = sensor
    return tiff(thumbnail, shown)
