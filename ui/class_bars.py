"""The classes of a head as bars that can be clicked, also with the keyboard.

Streamlit's charts report clicks, but their bars take no keyboard focus; these are buttons.
"""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from ui.predictions import Share, line_style, swatch_style
from ui.theme import percent

_HTML = "<ol></ol>"

_CSS = """
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

_JS = """
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


def class_bars(shares: Sequence[Share], key: str, choose: Callable[[str], None]) -> None:
    """Draw lines as ``probability_list`` does, but as buttons; a click calls ``choose(value)``.

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
    _component()(key=key, data={"lines": lines}, on_chosen_change=clicked, height="content")


@st.cache_resource(show_spinner=False)
def _component() -> Callable[..., Any]:
    # Once per process: Streamlit logs a second registration as a clash of names.
    return st.components.v2.component("class_bars", html=_HTML, css=_CSS, js=_JS)
