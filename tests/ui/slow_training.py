"""A replacement for ``python -m train``: a training with quick steps that needs no photos."""

import sys
import time

from geoclip_core.training.runs import Run
from geoclip_core.training.session import RunSession, StopRequestedError, execute


def train(argv: list[str]) -> int:
    run = Run.open(argv[argv.index("--resume") + 1])
    options = run.config
    steps = options.get("steps", 30_000)
    if options.get("crash") == "early":
        print("python -m train fit: error: no module named nothing", file=sys.stderr)
        return 2

    def work(session: RunSession) -> None:
        first = len(run.metrics())
        session.log("training begins")
        for step in range(first + 1, steps + 1):
            if session.stop_requested():
                raise StopRequestedError
            if options.get("crash") == "late" and step == 3:
                raise ValueError("the photo 7.jpg is broken")
            time.sleep(options.get("seconds", 0.02))
            # Not session.metrics: TensorBoard would import torch.
            run.log_metrics({"step": step, "time": time.time(), "train/loss": 1 / step})
            session.progress("training", step / steps, now=True, step=step)

    return execute(run, work)


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
