"""Train context heads and a coordinate head on a backbone.

Frozen backbones are run once; the heads then learn from cached embeddings in seconds to minutes.
"""

from geoclip_core.training.options import FitOptions
from train.run_command import run_training

Options = FitOptions


def run(options: FitOptions) -> int:
    """Fit a model; see `geoclip_core.training.fit`."""

    def work(chosen: FitOptions, session: object, accelerator: object, folder: object) -> None:
        from geoclip_core.training.fit import FitRun, fit

        fit(FitRun(chosen, session, accelerator, folder, folder.name))

    return run_training(options, FitOptions.COMMAND, work)
