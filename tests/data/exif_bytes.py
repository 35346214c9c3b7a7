"""Build EXIF blocks byte by byte, including invalid ones that Pillow would not write."""

import struct

from hypothesis import strategies as st

ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SIGNED_RATIONAL = 2, 3, 4, 5, 7, 10
_FORMATS = {SHORT: "H", LONG: "I", RATIONAL: "II", SIGNED_RATIONAL: "ii"}


def entry(kind, *values):
    """Return a field: text or bytes for ASCII and UNDEFINED, pairs of integers for rationals."""
    if kind in (ASCII, UNDEFINED):
        data = values[0].encode() + b"\0" if isinstance(values[0], str) else values[0]
        return kind, len(data), data
    packed = b"".join(
        struct.pack(">" + _FORMATS[kind], *(value if isinstance(value, tuple) else (value,)))
        for value in values
    )
    return kind, len(values), packed


def _directory(fields, start, pointers=()):
    """Return the bytes of an IFD that starts at offset ``start``.

    ``pointers`` are (tag, function) pairs; the function returns the child IFD for its offset.
    """
    tags = sorted([*fields.items(), *((tag, None) for tag, _ in pointers)], key=lambda f: f[0])
    offset = start + 2 + 12 * len(tags) + 4
    table, data = struct.pack(">H", len(tags)), b""
    children = dict(pointers)
    for tag, field in tags:
        if field is None:
            child = children[tag](offset + len(data))
            table += struct.pack(">HHII", tag, LONG, 1, offset + len(data))
            data += child
            continue
        kind, count, payload = field
        if len(payload) <= 4:
            table += struct.pack(">HHI", tag, kind, count) + payload.ljust(4, b"\0")
        else:
            table += struct.pack(">HHII", tag, kind, count, offset + len(data))
            data += payload + b"\0" * (len(payload) % 2)
    return table + b"\0\0\0\0" + data


def exif_block(top=None, exif=None, gps=None):
    """Return a big-endian EXIF block with the given directories, as stored in JPEG and PNG."""
    pointers = []
    if exif:
        pointers.append((0x8769, lambda start: _directory(exif, start)))
    if gps:
        pointers.append((0x8825, lambda start: _directory(gps, start)))
    return b"Exif\0\0MM\0*\0\0\0\x08" + _directory(top or {}, 8, pointers)


def degrees(*parts):
    """Return a field of rationals from whole or (numerator, denominator) parts."""
    return entry(RATIONAL, *(part if isinstance(part, tuple) else (part, 1) for part in parts))


def gps_fields(latitude, north, longitude, east):
    """Return the four fields of a position; None omits a reference."""
    fields = {2: latitude, 4: longitude}
    if north is not None:
        fields[1] = entry(ASCII, north)
    if east is not None:
        fields[3] = entry(ASCII, east)
    return fields


_integers = st.integers(0, 2**32 - 1)
_fields = st.one_of(
    st.builds(lambda data: entry(ASCII, data), st.binary(min_size=1, max_size=24)),
    st.builds(lambda data: entry(UNDEFINED, data), st.binary(min_size=1, max_size=24)),
    st.builds(lambda n: entry(SHORT, *n), st.lists(st.integers(0, 65535), min_size=1, max_size=4)),
    st.builds(
        lambda n: entry(RATIONAL, *n),
        st.lists(st.tuples(_integers, _integers), min_size=1, max_size=4),
    ),
    st.builds(
        lambda kind, count, data: (kind, count, data),
        st.integers(0, 14),
        st.integers(0, 2**20),
        st.binary(max_size=16),
    ),
)
hostile_blocks = st.builds(
    exif_block,
    st.dictionaries(st.sampled_from([0x0112, 0x0132, 0x8769, 0x8825, 0x010F]), _fields),
    st.dictionaries(st.sampled_from([0x9003, 0x9004, 0x9010, 0x9011, 0x9012]), _fields),
    st.dictionaries(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 9, 29]), _fields),
)
