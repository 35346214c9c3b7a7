"""Hypothesis strategies for files of strangers: JSON with wrong values, and damaged bytes."""

import copy
import json

from hypothesis import strategies as st

VALUES = st.sampled_from(
    [
        *(float("nan"), float("inf"), 1e308, -1e308, 1e-300, -0.0, 0.5, 3.7),
        *(0, 1, -1, 2, 65536, 10**9, -(10**9), 10**18, 10**400),
        *(None, True, False, "", "x", "350", "a" * 10_000, "\ud800", "../../x", "owner/model"),
        *([], {}, [[]], [[[[1]]]], [1] * 5000, {"a": {"b": 1}}),
        "![x](http://127.0.0.1:9/beacon)",
    ]
)
"""Numbers of every kind, texts, and lists where something else is expected."""


def paths(document, path=()):
    """Return the paths of every value of nested JSON."""
    found = [path]
    if isinstance(document, dict):
        for name, value in document.items():
            found += paths(value, (*path, name))
    elif isinstance(document, list):
        for index, value in enumerate(document[:20]):
            found += paths(value, (*path, index))
    return found


@st.composite
def edited_json(draw, document):
    """Return the text of a document in which one to three values are wrong, renamed or missing."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(document)))
        value = copy.deepcopy(draw(VALUES))
        if not path:
            document = value
            continue
        place = document
        for part in path[:-1]:
            place = place[part]
        change = draw(st.sampled_from(["set", "set", "set", "delete", "rename", "repeat"]))
        if change == "delete":
            del place[path[-1]]
        elif change == "rename" and isinstance(place, dict):
            place[str(value)[:50]] = place.pop(path[-1])
        elif change == "repeat" and isinstance(place, list):
            place.extend([place[path[-1]]] * 1000)
        else:
            place[path[-1]] = value
    return json.dumps(document)


@st.composite
def damaged_bytes(draw, content):
    """Return bytes that were cut off, or of which some were changed."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 20))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)
