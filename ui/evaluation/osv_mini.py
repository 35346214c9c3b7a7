"""How to evaluate on OSV-Mini-129k, and what it takes: the rehearsal on drawn photos."""

import streamlit as st

from geoclip_core.checks import checked
from geoclip_core.errors import FileError
from geoclip_core.files import read_json
from train.benchmarks.measure import FULL_ROWS, ROOT
from train.benchmarks.rehearsal import Rehearsal
from ui.theme import kilometres, markdown_text

MEASURED = ROOT / "docs" / "measured" / "rehearsal.json"
COMMANDS = """python -m train download osv-mini --output datasets/osv-mini
python -m train fit --recipe osv-mini --data datasets/osv-mini --output runs/osv-mini
python -m train evaluate --model runs/osv-mini --data datasets/osv-mini"""
_STEPS = {
    "doctor": "check",
    "embed": "embed the photos, once",
    "fit": "train",
    "evaluate": "evaluate",
    "report": "write a report",
}
"""Step of the rehearsal -> what it does; drawing the photos is not shown."""


def osv_mini() -> None:
    """Show the three commands, and the time and result of the rehearsal."""
    st.markdown("Download, train, evaluate; each command continues after an interruption:")
    st.code(COMMANDS, language="bash", wrap_lines=True)
    try:
        done = checked(Rehearsal, read_json(MEASURED), MEASURED)
    except FileError:
        return
    st.markdown(f"**What you will see**\n\n{markdown_text(summary(done))}")


def summary(done: Rehearsal) -> str:
    """Return what a rehearsal took and gave, as a sentence or two for each."""
    whole = done.rows >= FULL_ROWS
    steps = [
        f"{_STEPS[step.name]} {_duration(step.seconds)}"
        for step in done.steps
        if step.name in _STEPS
    ]
    most = max(step.peak_mb for step in done.steps)
    size = "as many as in OSV-Mini-129k" if whole else f"of {FULL_ROWS:,} in OSV-Mini-129k"
    result = done.result
    return (
        f"A rehearsal with {done.rows:,} drawn photos ({size}) took on {done.cores} cores: "
        f"{', '.join(steps)}; at most {most / 1000:.1f} GB of memory. "
        f"On its {result['photos']:,.0f} test photos the median error is "
        f"{kilometres(result['median_km'])}, {result['within_200_km']:.0%} are within 200 km, and "
        f"the 90 % radius holds {result['inside_90']:.0%} of the true places. Drawn photos say "
        "nothing about the accuracy on real ones."
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
