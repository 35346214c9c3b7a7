"""Work for the tests of Ray's workers; in a module of its own, because each worker imports it."""

import os
import signal
import sys

import pyarrow as pa

from geoclip_core.errors import HintError


def doubled(**settings):
    """Return work that doubles numbers, and misbehaves at one of them."""
    if settings.get("broken"):
        raise HintError("cannot be made")

    def work(rows):
        values = rows.column("n").to_pylist()
        if settings.get("deadly") in values:
            os.kill(os.getpid(), signal.SIGKILL)
        if settings.get("wrong") in values:
            raise HintError("that is wrong")
        if settings.get("fault") in values:
            raise KeyError("a fault of the program")
        assert "pytest" not in sys.modules["__main__"].__file__
        assert not {"streamlit", "pytest", "torch"} & set(sys.modules)
        return pa.table({"twice": [2 * n for n in values]})

    return work
