"""``python -m train COMMAND``: one module a command, imported only when it is called."""

import importlib
import sys
from collections.abc import Sequence

from train.command_line import parse

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
    "benchmark": "measured comparisons: gallery, tables",
    "climate-raster": "build the climate raster that ships with the package",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m train COMMAND [options]\n\ncommands:")
        for name, text in COMMANDS.items():
            print(f"  {name:<15} {text}")
        print("\npython -m train COMMAND --help shows a command's options.")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"train: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module("train." + name.replace("-", "_"))
    options = parse(
        module.Options,
        arguments[1:],
        prog=f"python -m train {name}",
        description=module.__doc__,
    )
    try:
        return module.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"python -m train {name}: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
