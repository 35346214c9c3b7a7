"""``python -m geoclip_core locate | explain | models | download | push``."""

import argparse
import sys
from collections.abc import Sequence

from geoclip_core import explain_command, locate_command
from geoclip_core.errors import CheckpointError
from geoclip_core.hub import commands as hub_commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 something failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m geoclip_core",
        description="A photo in, latitude and longitude out, on your own machine.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    locate_command.add_parser(commands)
    explain_command.add_parser(commands)
    hub_commands.add_parsers(commands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except (CheckpointError, OSError, ValueError) as error:
        print(f"{parser.prog} {arguments.command}: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
