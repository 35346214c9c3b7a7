"""Time the pages that show datasets, runs and evaluations, without a browser.

`python scripts/open_pages.py`, in a folder with datasets/, runs/ and evaluations/. Every page and
every panel of the Evaluation page is opened twice: the second time, what pages keep is there.
The exit status is 1 if one shows an error.
"""

import ast
import sys
import time
from pathlib import Path

from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 600


def seconds_to_open(page: str, **session: object) -> list[float]:
    """Open a page twice in one session and return the seconds of both.

    Raises:
        RuntimeError: the page shows an error.
    """
    app = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=PATIENCE_S)
    for key, value in session.items():
        app.session_state[key.replace("_", " ")] = value
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        app.run()
        seconds.append(time.perf_counter() - started)
        if app.exception:
            raise RuntimeError(f"{page}: {app.exception[0].message}")
    return seconds


def main() -> int:
    """Open all pages and print a line for each."""
    sys.path.insert(0, str(ROOT))
    pages: dict[str, tuple[str, dict[str, object]]] = {
        "Dataset": ("4_Dataset", {}),
        "Train": ("3_Train", {}),
    }
    for tab in _tabs():
        pages[f"Evaluation, {tab}"] = ("2_Evaluation", {"evaluation_tab": tab})
    for name, (page, session) in pages.items():
        first, again = seconds_to_open(page, **session)
        print(f"{name:<40}{first:8.2f} s{again:8.2f} s again", flush=True)
    return 0


def _tabs() -> list[str]:
    """Return the names of the panels of the Evaluation page, from its source."""
    tree = ast.parse((ROOT / "pages" / "2_Evaluation.py").read_text(encoding="utf-8"))
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="PANELS")], value=ast.Dict(keys=keys)):
                return [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    raise RuntimeError("the Evaluation page has no PANELS")


if __name__ == "__main__":
    raise SystemExit(main())
