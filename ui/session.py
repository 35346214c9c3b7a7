"""Choices that outlive a rerun and a change of page.

Streamlit forgets a widget that was not drawn. What a viewer has chosen (a model, a dataset, a run)
must still be chosen on the next page: :func:`choose` draws a select box that keeps its value for
the whole session, and :func:`kept` holds any other object.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st

T = TypeVar("T")

CONTEXT_PHOTO = "context photo"
"""Where the digest of the photo is kept that the context page shows."""


def choose(
    label: str,
    options: Sequence[T],
    key: str,
    *,
    default: T | None = None,
    format_func: Callable[[Any], str] = str,
    help: str | None = None,
    **widget: Any,
) -> T | None:
    """A select box whose value survives a change of page.

    A value that has meanwhile gone from the options (a run that was deleted) gives way to
    ``default``, or to the first option.

    Args:
        label: what is chosen.
        options: hashable values; none: the box is drawn disabled.
        key: the same on every page that offers this choice.
        default: chosen at first, if it is among the options.
        format_func: how an option is shown.
        help: a tooltip.
        widget: further arguments of ``st.selectbox``.

    Returns:
        The chosen option; None if there are none.
    """
    values = list(options)
    if st.session_state.get(key) not in values:
        st.session_state.pop(key, None)
        if values:
            st.session_state[key] = default if default in values else values[0]
    return st.selectbox(
        label,
        values,
        key=key,
        format_func=format_func,
        help=help,
        # Where a value may be typed, an empty list is no reason to close the box.
        disabled=not values and not widget.get("accept_new_options"),
        placeholder=widget.pop("placeholder", None if values else "Nothing to choose from"),
        persist_state="session",
        **widget,
    )


def kept(key: str, make: Callable[[], T]) -> T:
    """The object of this session under ``key``, made when it is first asked for."""
    name = f"kept:{key}"
    if name not in st.session_state:
        st.session_state[name] = make()
    return st.session_state[name]
