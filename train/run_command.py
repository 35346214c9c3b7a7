"""What `fit` and `pretrain` have in common as commands: new runs, resumed runs, their end."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from geoclip_core.jobs import JobError
from geoclip_core.training.options import TrainingOptions, from_mapping, to_mapping
from geoclip_core.training.runs import Run
from geoclip_core.training.session import RunSession, execute

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T", bound=TrainingOptions)
Work = Callable[[T, RunSession, "Accelerator", Path], None]


def run_training(options: T, task: str, work: Work) -> int:
    """Start a run, or continue one, and do its work.

    Args:
        options: of the command line; with `resume` those of the run are taken.
        task: name of the command.
        work: (options, session, accelerator, run folder).

    Returns:
        Exit status.
    """
    from geoclip_core.training.distributed import build_accelerator, same_text_everywhere

    resumed = None
    if options.resume is not None:
        resumed = Run.open(options.resume)
        status = resumed.status
        if status.task != task:
            raise JobError(f"{resumed.name} is a run of {status.task}, not of {task}")
        if status.state == "finished":
            print(f"{resumed.name} has finished: there is nothing to continue")
            return 0
        changes = {} if options.device == "auto" else {"device": options.device}
        options = from_mapping(type(options), resumed.config | changes, str(resumed.folder))
    options.dataset_folder()  # raises if there is none
    accelerator = build_accelerator(options)
    run: Run | None = None
    folder = ""
    if accelerator.is_main_process:
        run = resumed or _new_run(options, task)
        folder = str(run.folder)
        print(f"run folder: {folder}", file=sys.stderr)
    folder = same_text_everywhere(accelerator, folder)
    return execute(run, lambda session: work(options, session, accelerator, Path(folder)))


def _new_run(options: TrainingOptions, task: str) -> Run:
    name = task
    if options.recipe:
        name += "-" + Path(options.recipe).stem
    return Run.create(options.runs, name, lasting_config(options), task, options.output)


def lasting_config(options: TrainingOptions) -> dict[str, Any]:
    """The options as values that mean the same from any folder."""
    fields = {
        field.name: getattr(options, field.name).absolute()
        for field in dataclasses.fields(options)
        if isinstance(getattr(options, field.name), Path)
    }
    if Path(options.backbone).expanduser().exists():
        fields["backbone"] = str(Path(options.backbone).expanduser().absolute())
    config = to_mapping(dataclasses.replace(options, **fields))
    # where the run is does not belong into it: it may be moved
    return {k: v for k, v in config.items() if k not in ("output", "runs", "resume")}
