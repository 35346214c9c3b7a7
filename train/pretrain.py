"""Contrastive pretraining: photos and captions of climate, month, city, county and state."""

from dataclasses import dataclass

from geoclip_core.training.options import PretrainOptions
from train.run_command import run_training


@dataclass(frozen=True, kw_only=True)
class Options(PretrainOptions):
    """Options of the command: those of the loop."""


def run(options: Options) -> int:
    """Pretrain two towers; see `geoclip_core.training.pretrain`."""

    def work(chosen: Options, session: object, accelerator: object, folder: object) -> None:
        from geoclip_core.training.pretrain import PretrainRun, pretrain

        pretrain(PretrainRun(chosen, session, accelerator, folder, folder.name))

    return run_training(options, Options.COMMAND, work)
