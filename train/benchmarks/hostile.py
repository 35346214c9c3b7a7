"""Damage photos, checkpoints, run folders and tables of predictions, to test their readers.

Every function takes a `random.Random`. `python -m train benchmark attack` seeds it; the tests let
Hypothesis draw it, which finds small examples.
"""

import copy
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

BEACON = "![x](http://127.0.0.1:9/beacon)"
VALUES: tuple[Any, ...] = (
    *(float("nan"), float("inf"), 1e308, -1e308, 1e-300, -0.0, 0.5, 3.7),
    *(0, 1, -1, 2, 65536, 10**9, -(10**9), 10**18, 10**400),
    *(None, True, False, "", "x", "350", "a" * 10_000, "\ud800", "../../x", "owner/model"),
    *([], {}, [[]], [[[[1]]]], [1] * 5000, {"a": {"b": 1}}),
    BEACON,
)
"""Numbers of every kind, texts, and lists where something else is expected."""


# Bytes and JSON -----------------------------------------------------------------------------------


def paths(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of every value of nested JSON."""
    found = [path]
    if isinstance(document, dict):
        for name, value in document.items():
            found += paths(value, (*path, name))
    elif isinstance(document, list):
        for index, value in enumerate(document[:20]):
            found += paths(value, (*path, index))
    return found


def edited_json(document: Any, random: Random) -> str:
    """Return the text of a document in which one to three values are wrong, renamed or missing."""
    document = copy.deepcopy(document)
    for _ in range(random.randint(1, 3)):
        path = random.choice(paths(document))
        value = copy.deepcopy(random.choice(VALUES))
        if not path:
            document = value
            continue
        place = document
        for part in path[:-1]:
            place = place[part]
        change = random.choice(["set", "set", "set", "delete", "rename", "repeat"])
        if change == "delete":
            del place[path[-1]]
        elif change == "rename" and isinstance(place, dict):
            place[str(value)[:50]] = place.pop(path[-1])
        elif change == "repeat" and isinstance(place, list):
            place.extend([place[path[-1]]] * 1000)
        else:
            place[path[-1]] = value
    return json.dumps(document)


def damaged_bytes(content: bytes, random: Random) -> bytes:
    """Return the content cut off, or with 1 to 20 bytes changed."""
    if random.choice([True, False]):
        return content[: random.randint(0, max(len(content) - 1, 0))]
    changed = bytearray(content)
    for _ in range(random.randint(1, 20)):
        if changed:
            changed[random.randint(0, len(changed) - 1)] = random.randint(0, 255)
    return bytes(changed)


REPLACEMENTS = ("gone", "pipe", "device", "folder", "huge", "deep", "latin", "link")


def replace_file(path: Path, kind: str) -> None:
    """Replace a file by one of `REPLACEMENTS`.

    They are nothing, a pipe, a device, a folder, a terabyte of zeros, nested brackets, text that is
    not UTF-8, and a link to itself.
    """
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind == "deep":
        path.write_text("[" * 100_000)
    elif kind == "latin":
        path.write_bytes('{"name": "é"}'.encode("latin-1"))
    elif kind == "link":
        path.symlink_to(path.name)


# Photos -------------------------------------------------------------------------------------------

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


@cache
def photo_samples() -> dict[str, bytes]:
    """Return small photos of every format that is read, by name."""
    import pillow_heif  # here, because only photos need it

    pillow_heif.register_heif_opener()
    image = smooth((160, 120))
    exif = Image.Exif()
    exif[271], exif[274] = "Maker", 6
    gps = exif.get_ifd(34853)
    gps |= {1: "N", 2: (40.0, 26.0, 46.0), 3: "W", 4: (79.0, 58.0, 56.0)}

    def saved(kind: str, of: Image.Image = image, **options: Any) -> bytes:
        stream = io.BytesIO()
        of.copy().save(stream, kind, **options)  # Pillow leaves its settings on an image
        return stream.getvalue()

    def animated() -> dict[str, Any]:
        return {"save_all": True, "append_images": [smooth((160, 120), s) for s in (1, 2)]}

    plain = jpeg(image, exif=exif)
    return {
        "jpeg": plain,
        "jpeg progressive": jpeg(image, progressive=True, exif=exif),
        "jpeg many scans": with_scans(image, 60),
        "jpeg grey": jpeg(image.convert("L")),
        "jpeg cmyk": jpeg(image.convert("CMYK")),
        "mpo": saved("MPO", **animated()),
        "png": saved("PNG", exif=exif),
        "png palette": saved("PNG", image.convert("P")),
        "png 16 bit": saved("PNG", Image.new("I;16", (90, 60), 700)),
        "apng": saved("PNG", **animated()),
        "webp": saved("WEBP", exif=exif),
        "webp lossless": saved("WEBP", image.convert("RGBA"), lossless=True),
        "webp animated": saved("WEBP", **animated()),
        "gif": saved("GIF", **animated()),
        "bmp": saved("BMP"),
        "tiff": saved("TIFF", exif=exif),
        "tiff deflate": saved("TIFF", compression="tiff_adobe_deflate"),
        "tiff lzw": saved("TIFF", compression="tiff_lzw"),
        "tiff pages": saved("TIFF", **animated()),
        "avif": saved("AVIF", exif=exif),
        "heic": saved("HEIF", exif=exif),
        "dng": raw(jpeg(smooth((640, 480)))),
        "cr2": raw(jpeg(smooth((640, 480))), kind="CR2"),
    }


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def many_parts() -> dict[str, bytes]:
    """Return files of millions of small parts, none of which is a photo."""
    return {
        "segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000,
        "fill": b"\xff\xd8" + b"\xff" * 200_000,
        "chunks": b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", bytes(13)) + _chunk(b"teST") * 210_000,
        "comments": b"GIF89a\1\0\1\0\0\0\0!\xfe" + (b"\xff" + bytes(255)) * 5000 + b"\0,",
        "numbers": b"II*\0\x08\0\0\0\1\0"
        + struct.pack("<HHII", 700, 3, 2_000_000, 26)
        + bytes(4 * 10**6),
        "big numbers": b"II+\0\x08\0\0\0"
        + struct.pack("<QQHHQQ", 16, 1, 700, 3, 2_000_000, 52)
        + bytes(4 * 10**6),
    }


def _png_bomb(random: Random) -> bytes:
    """Return a PNG of up to 40,000 × 40,000 zeros."""
    width, height = (random.choice([1000, 9000, 14_000, 40_000]) for _ in range(2))
    lines = zlib.compressobj(9)
    data = b"".join(lines.compress(bytes(2**20)) for _ in range(min(width * height // 2**20, 200)))
    data += lines.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, random.choice([0, 2, 6]), 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND")


def _text_bomb(random: Random) -> bytes:
    """Return a PNG with compressed text, profile or EXIF of up to 200 MB."""
    kind = random.choice([b"zTXt", b"iCCP"])
    data = zlib.compress(bytes(random.choice([10, 60, 200]) * 10**6), 9)
    start = photo_samples()["png"]
    return start[:33] + _chunk(kind, b"Comment\0\0" + data) + start[33:]


def _scan_bomb(random: Random) -> bytes:
    side, mode = random.choice([500, 2000, 4000, 8000]), random.choice(["L", "RGB"])
    return with_scans(Image.new(mode, (side, side)), random.choice([20, 100, 300]))


def _flat_bomb(random: Random) -> bytes:
    """Return a large flat picture, which takes few bytes in every format."""
    kind = random.choice(["WEBP", "GIF", "TIFF", "JPEG", "AVIF"])
    side = random.choice([2000, 5000, 8000])
    options: dict[str, Any] = {"lossless": True, "method": 0} if kind == "WEBP" else {}
    if kind == "TIFF":
        options = {"compression": "tiff_adobe_deflate"}
    if kind == "AVIF":
        side, options = 2000, {"speed": 10}
    stream = io.BytesIO()
    Image.new(random.choice(["L", "RGB"]), (side, side)).save(stream, kind, **options)
    return stream.getvalue()


def _frames_bomb(random: Random) -> bytes:
    frames = [Image.new("P", (500, 500), number % 250) for number in range(random.choice([5, 100]))]
    stream = io.BytesIO()
    kind = random.choice(["GIF", "PNG", "TIFF"])
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def _parts_bomb(random: Random) -> bytes:
    return random.choice(sorted(many_parts().values(), key=len))


_BOMBS: tuple[Callable[[Random], bytes], ...] = (
    *(_png_bomb, _text_bomb, _scan_bomb, _flat_bomb, _frames_bomb, _parts_bomb),
)


def hostile_photo(random: Random) -> tuple[str, bytes]:
    """Return a damaged photo and how it was made; two of a hundred are bombs."""
    if random.random() < 0.02:
        make = random.choice(_BOMBS)
        return make.__name__.strip("_").replace("_", " "), make(random)
    samples = photo_samples()
    name = random.choice(sorted(samples))
    content = bytearray(samples[name])
    made = [name]
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        change = random.choice(_PHOTO_CHANGES)
        content = bytearray(change(content, random))
        made.append(change.__name__.strip("_"))
    return ", ".join(made), bytes(content)


def _cut(content: bytearray, random: Random) -> bytes:
    return bytes(content[: random.randint(0, len(content))])


def _overwrite(content: bytearray, random: Random) -> bytes:
    return damaged_bytes(bytes(content), random)


def _header(content: bytearray, random: Random) -> bytes:
    """Write numbers near limits over one place of the first bytes, where sizes stand."""
    number = random.choice([0, 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1])
    data = struct.pack(random.choice(["<I", ">I"]), number)[: random.choice([1, 2, 4])]
    at = random.randint(0, min(len(content), 400))
    content[at : at + len(data)] = data
    return bytes(content)


def _remove(content: bytearray, random: Random) -> bytes:
    start = random.randint(0, len(content))
    return bytes(content[:start] + content[start + random.choice([1, 4, 100, 2000]) :])


def _repeat(content: bytearray, random: Random) -> bytes:
    start = random.randint(0, len(content))
    part = content[start : start + random.choice([4, 64, 1000])]
    return bytes(content[:start] + part * random.choice([2, 50]) + content[start:])


def _splice(content: bytearray, random: Random) -> bytes:
    other = random.choice(sorted(photo_samples().values()))
    return (
        bytes(content[: random.randint(0, len(content))]) + other[random.randint(0, len(other)) :]
    )


def _garbage(content: bytearray, random: Random) -> bytes:
    at = random.randint(0, len(content))
    return (
        bytes(content[:at]) + random.randbytes(random.choice([1, 50, 3000])) + bytes(content[at:])
    )


_PHOTO_CHANGES: tuple[Callable[[bytearray, Random], bytes], ...] = (
    *(_cut, _overwrite, _overwrite, _header, _header, _remove, _repeat, _splice, _garbage),
)


# Checkpoints --------------------------------------------------------------------------------------


def edited_header(content: bytes, random: Random) -> bytes:
    """Return a file of safetensors whose header names other tensors, shapes, kinds or places."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    names = sorted(name for name in header if name != "__metadata__")
    name = random.choice(names)
    entry = header[name]
    change = random.choice(["shape", "dtype", "place", "rename", "remove", "metadata", "json"])
    if change == "shape":
        entry["shape"] = random.choice([[], [0], [-1], [10**9], [2**62, 2**62], [1] * 100, ["x"]])
    elif change == "dtype":
        entry["dtype"] = random.choice(["I32", "F64", "F16", "BF16", "F8_E4M3", "BOOL", "X", None])
    elif change == "place":
        entry["data_offsets"] = random.choice([[0, 10**12], [8, 0], [0, 0], [-8, 8], [], "x"])
    elif change == "rename":
        header[random.choice(["x", name + ".x", "backbone.x", "a" * 10_000])] = header.pop(name)
    elif change == "remove":
        del header[name]
    elif change == "metadata":
        header["__metadata__"] = random.choice([[1], {"format": 1}, "x", None])
    else:
        text = edited_json(header, random).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]
    text = json.dumps(header).encode()
    stated = random.choice([len(text)] * 6 + [2**63, 2**40, 0, len(text) + 1])
    return struct.pack("<Q", stated) + text + content[8 + size :]


def edited_weights(content: bytes, random: Random) -> bytes:
    """Return a file of safetensors with up to six tensors filled, or numbers in them replaced."""
    from safetensors.numpy import load, save

    tensors = {name: tensor.copy() for name, tensor in load(content).items()}
    for name in random.sample(sorted(tensors), min(len(tensors), random.randint(1, 6))):
        tensor = tensors[name]
        number = random.choice([0.0, -1.0, 1.0, 9e7, -9e7, 1e30, 1e-30, np.nan, np.inf, -np.inf])
        if not np.issubdtype(tensor.dtype, np.floating):
            number = random.choice([0, 1, -1, 2**31])
        with np.errstate(all="ignore"):
            value = np.array(number).astype(tensor.dtype)
        if random.choice([True, False]) or not tensor.size:
            tensor[...] = value
        else:
            tensor.reshape(-1)[random.randrange(tensor.size)] = value
    return save(tensors)


def damage_checkpoint(folder: Path, random: Random) -> str:
    """Damage a checkpoint that may be changed; return what was done."""
    weights = folder / "model.safetensors"
    names = sorted(path.name for path in folder.glob("*.json"))
    name = random.choice(names)
    path = folder / name
    kind = random.choice(["json"] * 8 + ["bytes", "header", "header", "weights", "weights"] * 2
                         + ["special", "extra", "absurd", "absurd"])  # fmt: skip
    if kind == "json":
        path.write_text(edited_json(json.loads(path.read_text()), random))
    elif kind == "absurd":
        name, path = "config.json", folder / "config.json"
        path.write_text(_absurd(json.loads(path.read_text()), random))
    elif kind == "bytes":
        path = random.choice([path, weights])
        name = path.name
        path.write_bytes(damaged_bytes(path.read_bytes(), random))
    elif kind == "header":
        name = weights.name
        weights.write_bytes(edited_header(weights.read_bytes(), random))
    elif kind == "weights":
        name = weights.name
        weights.write_bytes(edited_weights(weights.read_bytes(), random))
    elif kind == "special":
        path = random.choice([path, weights])
        name = path.name
        replace_file(path, random.choice(REPLACEMENTS))
    else:
        extra = random.choice(["pytorch_model.bin", "modeling.py", "config.json.pkl", "\x01"])
        name = repr(extra)
        (folder / extra).write_bytes(b"\x80\x04cposix\nsystem\n.")
        path.write_text(edited_json(json.loads(path.read_text()), random))
    return f"{kind} of {name}"


def _absurd(document: Any, random: Random) -> str:
    """Return the text of a document with one to three of its numbers far too large or small."""
    numbers = [path for path in paths(document) if _is_number(_at(document, path))]
    for path in random.sample(numbers, min(len(numbers), random.randint(1, 3))):
        place = _at(document, path[:-1])
        place[path[-1]] = random.choice([0, -1, 3, 1000, 65536, 10**6, 10**9, 10**18, 1e-30])
    return json.dumps(document)


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        document = document[part]
    return document


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Runs and predictions -----------------------------------------------------------------------------


def damage_run(folder: Path, random: Random) -> str:
    """Damage one to three files of a run folder that may be changed; return what was done."""
    names = ["status.json", "config.yaml", "metrics.jsonl", "metrics.json", "log.txt"]
    chosen = random.sample(names, random.choice([1, 1, 3]))
    return ", ".join(_damage_run_file(folder / name, random) for name in chosen)


def _damage_run_file(path: Path, random: Random) -> str:
    name = path.name
    kind = random.choice(["values", "values", "values", "bytes", "special", "long"])
    if kind == "bytes" or (kind == "values" and name == "log.txt"):
        path.write_bytes(damaged_bytes(path.read_bytes(), random))
    elif kind == "special":
        replace_file(path, random.choice(REPLACEMENTS))
    elif kind == "long":
        content = path.read_bytes() or b"x"
        path.write_bytes(content * (3 * 10**6 // len(content) + 1))
    elif name == "config.yaml":
        import yaml

        path.write_text(edited_json(yaml.safe_load(path.read_text()), random))  # JSON is YAML
    elif name == "metrics.jsonl":
        lines = path.read_text().splitlines()
        for _ in range(random.randint(1, 5)):
            at = random.randrange(len(lines))
            try:
                lines[at] = edited_json(json.loads(lines[at]), random)
            except ValueError:
                lines[at] = "{"
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(edited_json(json.loads(path.read_text()), random))
    return f"{kind} of {name}"


def edited_frame(frame: pd.DataFrame, random: Random) -> pd.DataFrame:
    """Return a table in which values, a column, or its name are wrong."""
    frame = frame.copy()
    rows = len(frame)
    for _ in range(random.randint(1, 3)):
        column = random.choice(list(frame.columns.drop_duplicates(keep=False)))
        change = random.choice(["cells", "cells", "column", "drop", "rename", "kind"])
        value = random.choice(VALUES)
        if change == "cells":
            cells = frame[column].astype(object).tolist()
            for _ in range(random.randint(1, 5)):
                cells[random.randrange(rows)] = value
            frame[column] = pd.Series(cells, dtype=object)
        elif change == "column":
            # as objects: pandas itself refuses half a character
            frame[column] = pd.Series([value] * rows, dtype=object)
        elif change == "drop":
            frame = frame.drop(columns=column)
        elif change == "rename":
            names = ["x", "climate", "baseline_x_km", "predicted_city_key", "a" * 500]
            frame = frame.rename(columns={column: random.choice(names)})
        else:
            kind: Any = random.choice(["category", "string", "object"])
            try:
                frame[column] = frame[column].astype(kind)
            except (TypeError, UnicodeEncodeError):  # lists are no categories
                continue
    return frame
