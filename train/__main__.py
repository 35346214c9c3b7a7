"""``python -m train COMMAND``: one module a command, imported only when it is called."""

import sys
from collections.abc import Sequence

from train.dispatch import dispatch

COMMANDS = {
    "demo-data": "draw a synthetic OSV-Mini to try everything on",
    "import-photos": "make a dataset of your own geotagged photos",
    "download": "fetch OSV-Mini-129k",
    "doctor": "check a dataset and write a cleaned copy",
    "embed": "compute and cache the embeddings of a dataset",
    "pretrain": "contrastive pretraining of photo and caption",
    "fit": "train context heads and a coordinate head",
    "calibrate": "fit temperature and radius on held-out photos",
    "evaluate": "predict a dataset and measure the errors",
    "report": "one self-contained HTML report of an evaluation",
    "runs": "list the training runs",
    "benchmark": "measured comparisons; python -m train benchmark lists them",
    "climate-raster": "build the climate raster that ships with the package",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return dispatch("python -m train", "train", COMMANDS, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
