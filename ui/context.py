"""The parts of the Context heads page: heads compared with the map, climate belt, reasons."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from geoclip_core.data import DEFAULT_FEATURES, KNOWN_FEATURES
from geoclip_core.data.vocabulary import MONTHS, Vocabulary
from geoclip_core.earth.climate import (
    ClimateClass,
    ClimateRaster,
    climate_classes,
    climate_of_symbol,
)
from geoclip_core.earth.gazetteer import Gazetteer, country_name
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.errors import HintError, PlaceError
from geoclip_core.hints import HINT_FEATURES
from geoclip_core.model.map_context import MAP_FEATURES, map_context
from geoclip_core.prediction import Prediction
from ui import geometry
from ui.maps import OfflineMap
from ui.model_comparison import SAME_KM
from ui.models import Given, ServedModel
from ui.page import choose
from ui.photos import TrayPhoto
from ui.predictions import Share, exif_position, line_style, radius_sentence, swatch_style
from ui.questions import sentence
from ui.reasons import why
from ui.theme import kilometres, markdown_text, palette, percent

Classes = Sequence[tuple[str, float]]
"""(label, probability) of a head, most probable first."""

_TOP = 5
"""Classes shown of each head."""

_TOP_CLASS, _NO_BELT = "top", "none"
_AS_READ = "Overrule with …"

_BARS_HTML = "<ol></ol>"

_BARS_CSS = """
ol { list-style: none; margin: 0; padding: 0; }
button {
  box-sizing: border-box; color: var(--st-text-color); font: inherit; text-align: left; width: 100%;
}
button:not(:disabled) { cursor: pointer; }
button:disabled { opacity: 1; }
button:not(:disabled):hover, button:focus-visible {
  outline: 2px solid var(--st-primary-color); outline-offset: 1px;
}
span { flex: 1; overflow-wrap: anywhere; }
"""

_BARS_JS = """
export default function ({ parentElement, data, setTriggerValue }) {
  const list = parentElement.querySelector("ol");
  const drawn = JSON.stringify(data.lines);
  // The list is drawn again only when it changed, and the focus stays where it was.
  if (list.drawn !== drawn) {
    const buttons = [...list.querySelectorAll("button")];
    const root = list.getRootNode();
    const focused = buttons.indexOf(root.activeElement);
    list.replaceChildren(...data.lines.map((line) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.title = line.hint;
      button.style.cssText = line.style;
      button.disabled = !line.value;
      button.value = line.value;
      if (line.value) button.setAttribute("aria-pressed", String(line.chosen));
      if (line.swatch) {
        const swatch = document.createElement("i");
        swatch.style.cssText = line.swatch;
        button.append(swatch);
      }
      const label = document.createElement("span");
      label.textContent = line.label;
      const share = document.createElement("b");
      share.textContent = line.shown;
      button.append(label, share);
      item.append(button);
      return item;
    }));
    list.drawn = drawn;
    list.querySelectorAll("button")[focused]?.focus();
  }
  list.onclick = (event) => {
    const button = event.target.closest("button");
    if (button && button.value) setTriggerValue("chosen", button.value);
  };
}
"""


@dataclass(frozen=True)
class Fact:
    """What the map says about one feature: its key in vocabularies, and a label."""

    key: str
    label: str


@dataclass(frozen=True)
class Verdict:
    """A head compared with the map."""

    fact: Fact
    rank: int | None = None
    """Rank of the map's class in the head, from 1; None if the head has no such class."""
    probability: float = 0.0
    """Probability that the head gives to the map's class."""


def facts_at(latitude: float, longitude: float) -> dict[str, Fact]:
    """Return climate, country, state, county and city of a point; unknown ones are left out."""
    point = (latitude, longitude)
    facts: dict[str, Fact] = {}
    index = int(ClimateRaster.load().indices(point))
    if index > 0:
        climate = climate_classes()[index]
        facts["climate"] = Fact(climate.symbol, climate.label)
    place = Gazetteer.load().places([point])[0]
    facts["country"] = Fact(place.country, place.country_name)
    named = {
        "state": (place.state_key, place.state),
        "county": (place.county_key, place.county),
        "city": (place.city_key, place.city),
    }
    for feature, (key, name) in named.items():
        if name and key:
            facts[feature] = Fact(key, name)
    return facts


def month_fact(captured_at: datetime | None) -> dict[str, Fact]:
    """Return the month of the photo's EXIF time under "month"; empty if there is no time."""
    if captured_at is None:
        return {}
    month = MONTHS[captured_at.month - 1]
    return {"month": Fact(month, month)}


def compare(classes: Classes, fact: Fact, vocabulary: Vocabulary) -> Verdict:
    """Look up the map's fact among a head's classes."""
    if fact.key in vocabulary.keys:
        name = vocabulary.labels[vocabulary.keys.index(fact.key)]
        for rank, (label, probability) in enumerate(classes, 1):
            if label == name:
                return Verdict(fact, rank, probability)
    return Verdict(fact)


def effective_classes(classes: Classes) -> float:
    """Return the number of equally likely classes with the same entropy: exp(entropy)."""
    shares = [share for _, share in classes if share > 0]
    total = sum(shares)
    return math.exp(-sum(share / total * math.log(share / total) for share in shares))


def doubt(classes: Classes) -> str:
    """Describe the entropy of a head in words."""
    count = effective_classes(classes)
    share = math.log(count) / math.log(max(len(classes), 2))
    limits = ((0.15, "Very sure"), (0.4, "Fairly sure"), (0.75, "Unsure"))
    words = next((text for limit, text in limits if share < limit), "Nearly guessing")
    if round(count) < 2:
        return f"{words} (one of {len(classes)} classes has most of the probability)"
    return f"{words} (as if choosing among {count:.0f} of {len(classes)})"


def features_shown(*contexts: Mapping[str, Any]) -> list[str]:
    """Return the features that at least one of the models answers, in the usual order."""
    return [feature for feature in KNOWN_FEATURES if any(feature in one for one in contexts)]


def absent_heads(context: Mapping[str, Any]) -> list[str]:
    """Return the default features for which a model has no head."""
    return [feature for feature in DEFAULT_FEATURES if feature not in context]


def readable(feature: str, label: str) -> str:
    """Return a class for display: a country's name instead of its code."""
    return country_name(label) if feature == "country" else label


def climate_of_label(label: str) -> ClimateClass | None:
    """Return the climate class of a label that begins with its symbol; None for "unknown"."""
    try:
        return climate_of_symbol(label.split(",")[0].strip())
    except KeyError:
        return None


def choose_belt(prediction: Prediction) -> ClimateClass | None:
    """Draw a box with the head's first climate classes; return the one to show, or None."""
    classes = prediction.context.get("climate") or map_context(
        prediction.posterior, _TOP, ["climate"]
    ).get("climate", [])
    found = [climate_of_label(label) for label, _ in classes[:_TOP]]
    climates = {climate.symbol: climate for climate in found if climate}
    if not climates:
        return None
    labels = {_TOP_CLASS: "Of the most probable class", _NO_BELT: "None"}
    labels |= {symbol: climate.label for symbol, climate in climates.items()}
    chosen = choose(
        "Climate belt on the map", list(labels), "climate belt", format_func=labels.__getitem__
    )
    if chosen == _TOP_CLASS:
        return next(iter(climates.values()))
    return climates.get(chosen or _NO_BELT)


def add_belt(world: OfflineMap, climate: ClimateClass) -> None:
    """Add the area of a climate class to a map, in the raster's colour."""
    name = f"Climate {climate.symbol}"
    world.add_image(_belt(climate, world.window), name, 0.7)
    world.legend[name] = climate.hex


@lru_cache(maxsize=32)
def _belt(climate: ClimateClass, window: geometry.Window) -> NDArray[np.uint8]:
    cells = ClimateRaster.load().codes(window.lattice(900))
    image = np.zeros((*cells.shape, 4), dtype=np.uint8)
    image[cells == climate.code] = (*climate.rgb, 255)
    return image


def overruled_heads(photo: TrayPhoto) -> Given:
    """Return what the visitor chose in place of the heads' answers for a photo."""
    chosen = ((feature, st.session_state.get(_key(feature, photo))) for feature in HINT_FEATURES)
    return tuple((feature, value) for feature, value in chosen if isinstance(value, str))


def overrule(feature: str, photo: TrayPhoto, value: str) -> None:
    """Take a class for certain, or take that back if it is chosen already; call in a callback."""
    key = _key(feature, photo)
    st.session_state[key] = None if st.session_state.get(key) == value else value


def clear_overruled(photo: TrayPhoto) -> None:
    """Take back all that was chosen for a photo; call in a callback."""
    for feature in HINT_FEATURES:
        st.session_state[_key(feature, photo)] = None


def _key(feature: str, photo: TrayPhoto) -> str:
    return f"overrule {feature} {photo.digest[:16]}"


def answers(
    model: ServedModel, photo: TrayPhoto, given: Given, without_context: bool
) -> tuple[Prediction, Prediction | None]:
    """Return a model's answer with what is given, and the same with its context off, or None.

    What the model cannot use is left out. If what is given contradicts itself, that is said on the
    page and the answers are those without it.

    Raises:
        PhotoError: the photo cannot be read, or the model gives no estimate.
    """
    known = tuple(item for item in given if _understood(model, item))
    try:
        with_it = model.locate([photo], known)
    except HintError as error:
        name = markdown_text(model.locator.name)
        text = f"{name}: {markdown_text(sentence(error))} Take one of them back."
        st.error(text, icon=":material/error:")
        known = ()
        with_it = model.locate([photo])
    if not (without_context and model.locator.has_context_switch):
        return with_it, None
    return with_it, model.locate([photo], known, use_context=False)


def _understood(model: ServedModel, item: tuple[str, str]) -> bool:
    try:
        model.locator.check_hints(dict([item]))
    except (HintError, PlaceError):
        return False
    return True


def moved_sentence(prediction: Prediction, letter: str, model: ServedModel) -> str | None:
    """Say in Markdown how far the pin moved and why; None if nothing was given."""
    if prediction.hint_sentence is None:
        return None
    heads = [feature for feature in prediction.given if feature in model.locator.features]
    why = []
    if heads:
        noun = "head" if len(heads) == 1 else "heads"
        why.append(f"it replaces what the {_listed(heads, 'and')} {noun} read in the photo")
    if prediction.region is not None:
        why.append("places on the map that do not agree with it are left out")
    said = markdown_text(prediction.hint_sentence)
    return f":material/moving: **{letter}** {said} Why: {', and '.join(why)}."


def model_heading(
    prediction: Prediction, letter: str, without_context: Prediction | None = None
) -> None:
    """Draw a model's name, its estimate, that with its context off, and the heads that it lacks."""
    colour = "orange" if letter == "A" else "violet"
    st.markdown(f"#### :{colour}[{letter}] {markdown_text(prediction.model)}")
    st.markdown(f"**{markdown_text(prediction.headline)}**")
    if prediction.warning is not None:
        st.warning(markdown_text(prediction.warning), icon=":material/warning:")
    st.caption(f"The pin: {markdown_text(prediction.place.label)}")
    st.markdown(radius_sentence(prediction))
    if without_context is not None:
        with st.container(border=True, key=f"{letter} context off"):
            st.markdown(
                f"**Context off** :gray[{letter} off on the map]  \n"
                f"**{markdown_text(without_context.headline)}**"
            )
            st.caption(f"The pin: {markdown_text(without_context.place.label)}")
            st.markdown(radius_sentence(without_context))
            st.markdown(context_moves(prediction, without_context))
    if prediction.context_source == "map" or not prediction.context:
        st.caption(
            "This model has no context heads. Its bars show what the **map** says at the likely "
            "places; none of it was read in the photo."
        )
    elif absent := absent_heads(prediction.context):
        st.caption(f"It was trained without a head for {_listed(absent)}.")


def context_moves(prediction: Prediction, without_context: Prediction) -> str:
    """Say in Markdown how far the context heads move a model's estimate."""
    apart = float(
        haversine_km(
            (prediction.latitude, prediction.longitude),
            (without_context.latitude, without_context.longitude),
        )
    )
    if apart < SAME_KM:
        return ":material/moving: The context heads do not move this estimate."
    return f":material/moving: The context heads move the estimate by **{kilometres(apart)}**."


def field_letter(feature: str, panels: Sequence[tuple[str, ServedModel, Prediction]]) -> str:
    """Return the letter of the panel with the field that overrules a feature: the first head."""
    for letter, model, prediction in panels:
        if feature in model.locator.model.vocabularies and feature in prediction.context:
            return letter
    return panels[0][0]


def head_panel(
    feature: str,
    prediction: Prediction,
    model: ServedModel,
    photo: TrayPhoto,
    letter: str,
    with_field: bool,
) -> None:
    """Draw one feature of one model: bars to click, certainty in words, what map and truth say.

    ``with_field`` adds a field with all classes, the same as a click for those that are not shown.
    """
    vocabulary = model.locator.model.vocabularies.get(feature)
    read = vocabulary is not None and feature in prediction.context
    with st.container(border=True, key=f"{letter} {feature}"):
        source = "read in the photo" if read else "from the map, not from the photo"
        st.markdown(f"**{feature.capitalize()}** :gray[{source}]")
        if not read and feature not in MAP_FEATURES:
            st.caption(f"The model has no head for the {feature}, and the map does not show it.")
            return
        chosen = st.session_state.get(_key(feature, photo)) if feature in prediction.given else None
        # A head that is overruled still shows what it reads, beside what it was overruled with.
        shown = prediction
        if chosen is not None and prediction.without_given is not None:
            shown = prediction.without_given
        pin = facts_at(prediction.latitude, prediction.longitude).get(feature)
        truth = truth_facts(prediction).get(feature)
        if not read or vocabulary is None:
            found = map_context(shown.posterior, _TOP, [feature], shown.region).get(feature, [])
            keys = {label: _map_key(feature, label) for label, _ in found}
            marks = {truth.key: palette().truth} if truth else {}
            _bars(feature, found, keys, marks, chosen, photo, letter)
            st.markdown(_map_text(feature, pin))
            if truth is not None:
                text = f"Where it was taken: **{markdown_text(truth.label)}**"
                st.markdown(f":green[:material/location_on: {text}.]")
        else:
            classes = shown.context[feature]
            keys = dict(zip(vocabulary.labels, vocabulary.keys, strict=True))
            own = palette().best if letter == "A" else palette().other
            marks = {pin.key: own} if pin else {}
            marks |= {truth.key: palette().truth} if truth else {}
            _bars(feature, classes, keys, marks, chosen, photo, letter)
            st.caption(doubt(classes))
            true = compare(classes, truth, vocabulary) if truth else None
            at_pin = compare(classes, pin, vocabulary) if pin else None
            for line in verdict_lines(feature, classes, true, at_pin):
                st.markdown(line)
        if chosen is not None:
            known = readable(feature, prediction.given[feature])
            st.markdown(
                f":material/edit: Overruled: **{markdown_text(known)}** is taken for certain. "
                "Click it again to take it back."
            )
        if with_field and feature in HINT_FEATURES:
            _overrule_field(feature, photo, {key: label for label, key in keys.items() if key})
        if read:
            why(model, photo, feature, f"{letter} {feature}")


def _overrule_field(feature: str, photo: TrayPhoto, options: dict[str, str]) -> None:
    """Draw a select box of key -> label that overrules a head, also with a class not shown."""
    key = _key(feature, photo)
    current = st.session_state.get(key)
    if isinstance(current, str) and current not in options:  # chosen from the other model
        options = {current: current, **options}
    ordered = sorted(options, key=lambda one: readable(feature, options[one]).lower())
    if feature == "month":
        ordered = list(options)
    choose(
        f"Overrule the {feature}",
        [None, *ordered],
        key,
        format_func=lambda one: _AS_READ if one is None else readable(feature, options[one]),
        label_visibility="collapsed",
        placeholder=_AS_READ,
    )


def _map_key(feature: str, label: str) -> str:
    """Return the key of a unit or climate that the map names; "" if its name is ambiguous."""
    if feature == "climate":
        climate = climate_of_label(label)
        return climate.symbol if climate else ""
    try:
        level = "town" if feature == "city" else feature
        return Gazetteer.load().find_level(label, level).key
    except PlaceError:
        return ""


def _bars(
    feature: str,
    classes: Classes,
    keys: Mapping[str, str],
    marks: Mapping[str, str],
    chosen: str | None,
    photo: TrayPhoto,
    letter: str,
) -> None:
    """Draw the first classes, and those that are marked or chosen at any rank.

    ``keys`` gives the key of each label, "" for those that cannot be chosen; ``marks`` the colour
    of the frame of a key.
    """
    shares = []
    for rank, (label, probability) in enumerate(classes, 1):
        key = keys.get(label, "")
        if rank > _TOP and key not in marks and (chosen is None or key != chosen):
            continue
        climate = climate_of_label(label) if feature == "climate" else None
        known = feature in HINT_FEATURES and (feature != "climate" or climate is not None)
        is_chosen = chosen is not None and key == chosen
        name = readable(feature, label)
        hint = f"{_ordinal(rank)} of {len(classes)}"
        if key and known:
            hint += ". Click to take it back" if is_chosen else ". Click to take it for certain"
        shares.append(
            Share(
                f"{name} ← taken for certain" if is_chosen else name,
                probability,
                colour=climate.hex if climate else None,
                frame=palette().ink if is_chosen else marks.get(key),
                hint=hint,
                value=key if known else "",
                chosen=is_chosen,
            )
        )
    class_bars(shares, f"{letter} {feature} bars", partial(overrule, feature, photo))


def class_bars(shares: Sequence[Share], key: str, choose: Callable[[str], None]) -> None:
    """Draw lines as ``probability_list`` does, but as buttons; a click calls ``choose(value)``.

    Streamlit's charts report clicks, but their bars take no keyboard focus.
    Lines without a value cannot be clicked.
    """

    def clicked() -> None:
        value = st.session_state[key].chosen
        # What the browser sends must be a line that it was shown.
        if isinstance(value, str) and value and value in {share.value for share in shares}:
            choose(value)

    lines = [
        {
            "label": share.label,
            "shown": share.shown or percent(share.probability),
            "hint": share.hint,
            "style": line_style(share),
            "swatch": swatch_style(share),
            "value": share.value,
            "chosen": share.chosen,
        }
        for share in shares
    ]
    _bars_component()(key=key, data={"lines": lines}, on_chosen_change=clicked, height="content")


@st.cache_resource(show_spinner=False)
def _bars_component() -> Callable[..., Any]:
    # Once per process: Streamlit logs a second registration as a clash of names.
    return st.components.v2.component("class_bars", html=_BARS_HTML, css=_BARS_CSS, js=_BARS_JS)


def truth_facts(prediction: Prediction) -> dict[str, Fact]:
    """Return what is known to be true of a photo: facts at its position, month of its date."""
    truth = exif_position(prediction)
    facts = {} if truth is None else facts_at(*truth)
    return facts | month_fact(prediction.exif.captured_at if prediction.exif else None)


def verdict_lines(
    feature: str, classes: Classes, truth: Verdict | None, pin: Verdict | None
) -> list[str]:
    """Say in Markdown how a head compares with the truth, and with the model's own pin.

    Only the truth is green: that a model agrees with itself proves nothing.
    """
    lines = []
    if truth is not None:
        label = f"**{markdown_text(truth.fact.label)}**"
        said = {
            "month": f"the photo's date says {label}",
            "climate": f"where it was taken the climate is {label}",
        }.get(feature, f"it was taken in {label}")
        if truth.rank is None:
            lines.append(
                f":gray[:material/help:] {_capital(said)}, which is not one of its classes."
            )
        elif truth.rank == 1:
            lines.append(f":green[:material/check_circle: Right: {said}.]")
        else:
            lines.append(f":orange[:material/cancel: Wrong:] {said}, {_ranked(truth)}.")
    elif feature == "month":
        lines.append(":gray[:material/help: The photo has no date to compare with.]")
    if feature == "month":
        return lines
    if pin is None:
        lines.append(f":gray[:material/help: {_map_text(feature, None)}]")
        return lines
    head = f"**{markdown_text(readable(feature, classes[0][0]))}**"
    place = f"**{markdown_text(pin.fact.label)}**"
    where = "the climate at the pin is" if feature == "climate" else "the pin lies in"
    if pin.rank is None:
        text = f"The head reads {head}; {where} {place}, which is not one of its classes."
        lines.append(f":material/join: {text}")
    elif pin.rank == 1:
        lines.append(
            f":gray[:material/join_inner: Head and pin agree on {place}. Both come from this "
            "model, so that is no proof.]"
        )
    else:
        lines.append(f":material/join: The head reads {head}; {where} {place}, {_ranked(pin)}.")
    return lines


def _ranked(verdict: Verdict) -> str:
    assert verdict.rank is not None  # callers look at it
    return f"which the head ranks {_ordinal(verdict.rank)} ({percent(verdict.probability)})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _map_text(feature: str, fact: Fact | None) -> str:
    if fact is None:
        return f"The map has no {feature} at the pin" + (
            " (water)." if feature == "climate" else "."
        )
    return f":material/location_on: At the pin: **{markdown_text(fact.label)}**."


def _ordinal(number: int) -> str:
    teens = 10 <= number % 100 <= 20
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _listed(words: Sequence[str], last: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
