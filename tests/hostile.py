"""Hypothesis strategies for files of strangers, from the damage that the attack command does."""

from functools import partial

from hypothesis import strategies as st

from train.benchmarks import hostile

VALUES = st.sampled_from(hostile.VALUES)
"""Numbers of every kind, texts, and lists where something else is expected."""

DRAWN = st.randoms(use_true_random=False)
"""Random generators whose numbers Hypothesis chooses, and makes simpler."""


def edited_json(document):
    """Draw the text of a document in which one to three values are wrong, renamed or missing."""
    return DRAWN.map(partial(hostile.edited_json, document))


def damaged_bytes(content):
    """Draw bytes that were cut off, or of which some were changed."""
    return DRAWN.map(partial(hostile.damaged_bytes, content))


def edited_frames(frame):
    """Draw tables in which values, a column, or its name are wrong."""
    return DRAWN.map(partial(hostile.edited_frame, frame))
