"""The parts of a photo on which a model's answers rest, drawn on the photo."""

import io
from collections.abc import Sequence

import streamlit as st

from geoclip_core.explanation import PLACE, Effect, Explanation
from ui.context.facts import readable
from ui.loading import ServedModel, progress_bar
from ui.photo_tray import TrayPhoto
from ui.session import choose
from ui.theme import markdown_text, percent


def reasons(models: Sequence[ServedModel], photo: TrayPhoto) -> None:
    """What in a photo speaks for the answers of one or two models; looked for when asked to.

    Args:
        models: A, and B if there is one.
        photo: one that can be read.
    """
    st.subheader("What in the photo says so", anchor=False)
    st.caption(
        "Parts of the photo are covered, one after another, and the model is asked again. "
        ":orange[Orange] parts speak for the answer: without them it loses support. :blue[Blue] "
        "parts speak for something else. This is what the model uses, right or wrong."
    )
    missing = [model for model in models if not model.has_explained(photo)]
    if missing and not _look_for(missing, photo):
        return
    found = [model.explanation(photo) for model in models]
    answers = list(dict.fromkeys(answer for each in found for answer in each.effects))
    answer = choose("Answer", answers, "explained answer", format_func=str.capitalize) or PLACE
    for column, letter, explanation in zip(st.columns(2), "AB", found, strict=False):
        with column:
            _reason(explanation, answer, letter)


def _look_for(models: Sequence[ServedModel], photo: TrayPhoto) -> bool:
    """A button; once it is pressed, the search with its progress. True when all is found."""
    place = st.empty()
    if not place.button("Find the reasons", icon=":material/search_insights:"):
        return False
    with place.container():
        for model in models:
            st.caption(f"{markdown_text(model.locator.name)} looks at the photo")
            model.explain(photo, progress_bar("Looked", "times"))
    place.empty()
    return True


def _reason(explanation: Explanation, answer: str, letter: str) -> None:
    effect = explanation.effects.get(answer)
    name = markdown_text(explanation.model)
    if effect is None:
        st.caption(f"**{letter}** {name} reads no {answer} in the photo.")
        return
    stream = io.BytesIO()
    explanation.overlay(answer).save(stream, "PNG")
    label = readable(answer, effect.answer) if answer != PLACE else effect.answer
    st.image(
        stream.getvalue(), width="stretch", alt=f"What speaks for {label} in {explanation.file}"
    )
    st.markdown(f"**{letter}** {name}: **{markdown_text(label)}**. {_check(effect, answer)}")
    st.download_button(
        "Picture",
        stream.getvalue(),
        f"{answer}-{letter}.png",
        "image/png",
        key=f"reasons picture {letter}",
        icon=":material/download:",
    )


def _check(effect: Effect, answer: str) -> str:
    """How much the outlined part matters, beside the same shape elsewhere."""
    kind = "Expected GeoScore" if answer == PLACE else "Probability"
    numbers = effect.support, effect.left, effect.left_elsewhere
    whole, left, other = (f"{n:,.0f}" if answer == PLACE else percent(n) for n in numbers)
    measured = (
        f"{kind} {whole}; with the outlined fifth covered **{left}**, with the same shape covered "
        f"elsewhere {other} on average."
    )
    if effect.stands_out:
        return measured
    return (
        f"{measured} :material/info: So no part stands out: the answer rests on the photo as a "
        "whole, or on very little."
    )
