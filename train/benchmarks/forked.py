"""Run ``python -m train`` in processes that begin at once, to be watched and killed."""

import multiprocessing
import os
import sys
from pathlib import Path

from geoclip_core.processes import without_main
from train.__main__ import main

# The server imports what a training needs once and has nothing else in it, so that a process that
# is forked from it is like a new one, but begins to train at once.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([f"{__package__}.preloaded"])


class Forked(_FORKS.Process):  # type: ignore[name-defined]
    """``python -m train ARGUMENTS`` without the ten seconds of imports; it has started.

    Args:
        arguments: of the command.
        log: file to which both outputs are appended.
        variables: further environment variables.
    """

    def __init__(self, *arguments: object, log: Path, **variables: str) -> None:
        lines = [str(argument) for argument in arguments]
        super().__init__(target=_train, args=(lines, log, variables))
        with without_main():
            self.start()

    def wait(self, seconds: float = 240) -> int:
        """Return the exit status.

        Raises:
            TimeoutError: it has not ended after `seconds`, and was killed.
        """
        self.join(seconds)
        if self.exitcode is None:
            self.kill()
            raise TimeoutError(f"it still runs after {seconds} s")
        return int(self.exitcode)


def _train(arguments: list[str], log: Path, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    with log.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.exit(main(arguments))
