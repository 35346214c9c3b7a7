"""The commands that train models: pretrain, fit, embed, runs.

What does the work is imported inside the commands: torch takes seconds to load, and ``--help``
must answer at once.
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tyro.conf import Positional

from geoclip_core.training.options import (
    EmbedOptions,
    FitOptions,
    PretrainOptions,
    TrainingOptions,
    from_mapping,
    options_class,
    to_mapping,
)

if TYPE_CHECKING:  # for annotations alone
    from geoclip_core.training.runs import Run
    from geoclip_core.training.session import TrainingRun

O = TypeVar("O", bound=TrainingOptions)  # noqa: E741
_SHOWN = 20
"""How many unreadable photos are named on the terminal."""


def pretrain(options: PretrainOptions) -> int:
    """Align photos with captions of climate, month and place (contrastive pretraining)."""
    from geoclip_core.training import pretrain as loop

    return _train(options, loop.pretrain)


def fit(options: FitOptions) -> int:
    """Train context heads and a coordinate head on a backbone.

    The photos go through a frozen backbone once; the heads then learn from cached embeddings in
    seconds to minutes.
    """
    from geoclip_core.training import fit as loop

    return _train(options, loop.fit)


def _train(options: O, work: "Callable[[TrainingRun[O]], None]") -> int:
    """Do the work of a new run, or continue the run that ``--resume`` names."""
    from geoclip_core.data.dataset import splits_in
    from geoclip_core.jobs import JobError
    from geoclip_core.training.distributed import build_accelerator, same_text_everywhere
    from geoclip_core.training.runs import Run
    from geoclip_core.training.session import TrainingRun, execute

    resumed = None
    if options.resume is not None:
        resumed = Run.open(options.resume)
        task = resumed.status.task
        if task != options.COMMAND:
            raise JobError(f"{resumed.name} is a run of {task}, not of {options.COMMAND}")
        if resumed.status.state == "finished":
            print(f"{resumed.name} has finished: there is nothing to continue")
            return 0
        changes = {} if options.device == "auto" else {"device": options.device}
        options = from_mapping(type(options), resumed.config | changes, str(resumed.folder))
    splits_in(options.dataset_folder())  # raises if there is none, before a run is made
    if isinstance(options, FitOptions) and options.extend is not None:
        from geoclip_core.training.extend import base_folder

        base_folder(options.extend)
    accelerator = build_accelerator(options)
    run: Run | None = None
    folder = ""
    if accelerator.is_main_process:
        run = resumed or _new_run(options)
        folder = str(run.folder)
        print(f"run folder: {folder}", file=sys.stderr)
    place = Path(same_text_everywhere(accelerator, folder))
    return execute(
        run,
        lambda session: work(TrainingRun(options, session, accelerator, place, Run(place).title)),
    )


def _new_run(options: TrainingOptions) -> "Run":
    from geoclip_core.training.runs import Run

    name = options.COMMAND
    if options.recipe:
        name += "-" + Path(options.recipe).stem
    config = lasting_config(options)
    return Run.create(options.runs, name, config, options.COMMAND, options.output)


def lasting_config(options: TrainingOptions) -> dict[str, Any]:
    """Return the options as plain values that mean the same from any folder: paths are absolute."""
    config = to_mapping(options)
    for field in dataclasses.fields(options):
        if isinstance(value := getattr(options, field.name), Path):
            config[field.name] = str(value.absolute())
    backbone = Path(options.backbone).expanduser()
    if backbone.exists():
        config["backbone"] = str(backbone.absolute())
    if isinstance(options, FitOptions) and options.extend is not None:
        from geoclip_core.training.extend import lasting_name  # here, since it loads torch

        config["extend"] = lasting_name(options.extend)
    # the place of the run is left out, so that its folder can be moved
    return {k: v for k, v in config.items() if k not in ("output", "runs", "resume")}


def embed(options: EmbedOptions) -> int:
    """Compute the embeddings of a dataset and keep them for trainings and evaluations.

    An interrupted command continues where it stopped when it is run again.
    """
    import torch

    from geoclip_core.data.dataset import read_dataset
    from geoclip_core.jobs import ProgressBar
    from geoclip_core.model.backbones import build_backbone
    from geoclip_core.model.tensors import check_device
    from geoclip_core.ray_workers import ray_pool
    from geoclip_core.training.embeddings import EmbeddingCache, embed_dataset, embed_with_workers
    from geoclip_core.training.fit import fit_backbone

    dataset = read_dataset(options.dataset_folder())
    device = options.device
    if options.bulk:
        device = "cpu"  # of this process, which computes nothing
    elif device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    backbone = build_backbone(fit_backbone(options), device)
    with contextlib.ExitStack() as stack:
        if options.bulk:
            pool = stack.enter_context(ray_pool(options.processes or None, options.device))
            bar = stack.enter_context(ProgressBar("embedding", "photos"))
            embedded = embed_with_workers(
                pool,
                backbone,
                dataset,
                options.cache_dir,
                batch_size=options.batch_size,
                readers=options.workers,
                engine=options.engine,
                progress=bar.update,
            )
        else:
            bar = stack.enter_context(ProgressBar("embedding", "photos"))
            embedded = embed_dataset(
                backbone,
                dataset,
                options.cache_dir,
                batch_size=options.batch_size,
                workers=options.workers,
                engine=options.engine,
                progress=bar.update,
            )
    place = EmbeddingCache(backbone, dataset, options.cache_dir).place
    print(f"{len(dataset):,} photos, {backbone.embedding_width:,} numbers each, in {place}")
    for row, reason in list(embedded.failures.items())[:_SHOWN]:
        print(f"unreadable: {dataset.table['path'].iloc[row]}: {reason}")
    if len(embedded.failures) > _SHOWN:
        print(f"unreadable: {len(embedded.failures)} photos in total")
    if len(embedded.failures) == len(dataset):
        raise ValueError(f"none of the {len(dataset):,} photos of {dataset.name} can be read")
    return 0


@options_class
class RunsOptions:
    """Options of `runs`."""

    runs: Positional[Path] = Path("runs")
    """folder in which runs are kept"""
    json: bool = False
    """print one JSON object per line instead of a table"""


def runs(options: RunsOptions) -> int:
    """List the training runs, newest first."""
    from geoclip_core.training.runs import list_runs

    rows = [row for run in list_runs(options.runs) if (row := _row(run)) is not None]
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    if not rows:
        print(f"no runs in {options.runs}: start one with python -m train fit --recipe demo")
        return 0
    print(
        f"{'run':<28} {'started':<16} {'task':<9} {'state':<9} {'done':>5} {'left':>8} "
        f"{'val median':>11}"
    )
    for row in rows:
        left = "" if row["eta_seconds"] is None else _duration(row["eta_seconds"])
        best = row["best"].get("median_km")
        shown = "" if best is None else f"{best:.1f} km"
        print(
            f"{row['title']:<28} {row['created'][:16]:<16} {row['task']:<9} {row['state']:<9} "
            f"{row['progress']:>5.0%} {left:>8} {shown:>11}"
        )
        if row["error"]:
            print(f"    {row['error']}")
    return 0


def _row(run: "Run") -> dict[str, Any] | None:
    from geoclip_core.jobs import JobError

    try:
        status = run.status
    except JobError:
        return None  # deleted in the meantime
    fields = ("task", "state", "progress", "phase", "step", "total_steps", "eta_seconds")
    values = dataclasses.asdict(status)
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.created_at))
    about = {"name": run.name, "title": run.title, "folder": str(run.folder), "created": created}
    return about | {name: values[name] for name in (*fields, "best", "error")}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
