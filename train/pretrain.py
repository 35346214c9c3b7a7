"""Contrastive pretraining: photos and captions of climate, month, city, county and state."""

from geoclip_core.training.options import PretrainOptions
from train.run_command import run_training

Options = PretrainOptions


def run(options: PretrainOptions) -> int:
    """Pretrain two towers; see `geoclip_core.training.pretrain`."""

    def work(chosen: PretrainOptions, session: object, accelerator: object, folder: object) -> None:
        from geoclip_core.training.pretrain import PretrainRun, pretrain

        pretrain(PretrainRun(chosen, session, accelerator, folder, folder.name))

    return run_training(options, PretrainOptions.COMMAND, work)
