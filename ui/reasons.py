"""Why a model answers so: the parts of a photo that an answer depends on, found where it is asked.

The search runs in a thread of the server, so that it goes on when the visitor changes the page.
"""

import io

import streamlit as st

from geoclip_core.data import KNOWN_FEATURES
from geoclip_core.earth.gazetteer import country_name
from geoclip_core.errors import PhotoError
from geoclip_core.explain import PLACE, Effect
from ui.models import Search, ServedModel
from ui.page import kept
from ui.photos import TrayPhoto
from ui.theme import duration, markdown_text, percent

_LEGEND = (
    ":orange[Orange] parts support the answer: covering them makes it less likely. :blue[Blue] "
    "parts support another answer. The outline is the fifth of the photo that matters most. This "
    "shows what the model relies on, not whether it is right."
)


def why(model: ServedModel, photo: TrayPhoto, answer: str, key: str) -> None:
    """Draw a button "Why?" that shows, in its place, the parts of a photo that an answer rests on.

    Args:
        model: one that can read the photo.
        photo: a readable photo.
        answer: ``PLACE``, or a context feature that the model reads in photos.
        key: different for each call on a page.
    """
    question = (str(model.locator.folder or model.locator.name), photo.digest, answer)
    search = model.search(photo)
    running = search is not None and search.running  # before what it leaves is looked for
    with st.container(key=f"why-{key}"):
        if question not in _asked():
            st.button(
                "Why?",
                key=f"why? {key} {photo.digest}",
                icon=":material/help_center:",
                type="tertiary",
                help="Covers one part of the photo after another to find those that matter",
                on_click=_ask,
                args=(model, photo, question),
            )
        elif model.has_explained(photo):
            _reason(model, photo, answer, key)
            _button("Hide", ":material/visibility_off:", key, question)
        elif search is not None and running:
            _watch(search, question, key)
        else:
            problem = "" if search is None else search.problem
            if problem:
                st.error(markdown_text(problem), icon=":material/error:")
                _button("Close", ":material/close:", key, question)
            else:  # stopped, here or by another visitor with the same photo
                _asked().discard(question)
                st.rerun()


def _asked() -> set[tuple[str, str, str]]:
    """Return the questions of this session: model, digest of the photo, answer."""
    return kept("whys", set)


def _ask(model: ServedModel, photo: TrayPhoto, question: tuple[str, str, str]) -> None:
    _asked().add(question)
    if not model.has_explained(photo):
        model.start_search(photo)


def _button(label: str, icon: str, key: str, question: tuple[str, str, str]) -> None:
    st.button(
        label,
        key=f"{label} {key} {question[1]}",
        icon=icon,
        type="tertiary",
        on_click=_asked().discard,
        args=(question,),
    )


@st.fragment(run_every=1.0)
def _watch(search: Search, question: tuple[str, str, str], key: str) -> None:
    """Draw the progress of a search, and a button that stops it; rerun the page when it ends."""
    if not search.running:
        st.rerun()
        return
    text = "Getting ready …"
    if search.total:
        text = f"Checked {search.done} of {search.total} variants of the photo"
    if (left := search.seconds_left) is not None:
        text += f" · about {duration(left)} left"
    st.progress(search.done / search.total if search.total else 0.0, text)
    stopped = st.button("Stop", key=f"stop {key} {question[1]}", icon=":material/stop:")
    if stopped:
        search.stop()
        _asked().discard(question)
        st.rerun()


def _reason(model: ServedModel, photo: TrayPhoto, answer: str, key: str) -> None:
    try:
        explanation = model.explanation(photo)
    except PhotoError as error:
        st.error(markdown_text(str(error)), icon=":material/error:")
        return
    effect = explanation.effects.get(answer)
    if effect is None:
        st.caption(f"{markdown_text(explanation.model)} has no head for the {answer}.")
        return
    stream = io.BytesIO()
    explanation.overlay(answer).save(stream, "PNG")
    label = country_name(effect.answer) if answer == "country" else effect.answer
    st.image(
        stream.getvalue(), width="stretch", alt=f"Parts of {explanation.file} that support {label}"
    )
    st.markdown(f"**{markdown_text(label)}**. {effect_sentence(effect, answer)}")
    st.caption(_LEGEND)
    name = answer if answer in KNOWN_FEATURES else PLACE
    st.download_button(
        "Picture",
        stream.getvalue(),
        f"why-{name}-{explanation.model}.png",
        "image/png",
        key=f"picture {key}",
        icon=":material/download:",
        on_click="ignore",
        type="tertiary",
    )


def effect_sentence(effect: Effect, answer: str) -> str:
    """Say how much the outlined part matters, compared with the same shape elsewhere."""
    if answer == PLACE:
        support, of = f"Expected GeoScore {effect.support:,.0f}", "score"
    else:
        support, of = f"Probability {percent(effect.support)}", "probability"
    outlined = _lost(effect, effect.left)
    elsewhere = _lost(effect, effect.left_elsewhere)
    costs = f"**{outlined}** of the {of}" if outlined else "**nothing**"
    measured = (
        f"{support}. Hiding the outlined part costs {costs}; hiding as much elsewhere costs "
        f"{elsewhere or 'nothing'}."
    )
    if effect.stands_out:
        return measured
    return (
        f"{measured} :material/info: No part stands out: the answer depends on the photo as a "
        "whole, or on very little of it."
    )


def _lost(effect: Effect, left: float) -> str:
    """Return the share of the support that is lost ("43 %"), or "" for next to nothing."""
    lost = 1 - left / effect.support if effect.support > 0 else 0.0
    return percent(lost) if lost >= 0.005 else ""
