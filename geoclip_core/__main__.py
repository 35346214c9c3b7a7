"""The command `geoclip`: `geoclip COMMAND ...`, or `python -m geoclip_core COMMAND ...`."""

import io
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "locate": "Estimate where photos were taken.",
    "explain": "Show which parts of a photo an estimate rests on.",
    "models": "List the models on this computer and those that can be downloaded.",
    "download": "Download a model once, for use without a network afterwards.",
    "push": "Upload a checkpoint with its model card to the hub.",
}
"""Name -> what it does; `geoclip_core.commands.CLASSES` has a class of each, with its flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done; 1: something failed, and a sentence on stderr says what; 2: wrong usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: geoclip COMMAND [options]\n")
        print("Estimate where photos were taken, on your own computer.\n\ncommands:")
        for name, summary in COMMANDS.items():
            print(f"  {name:<10} {summary}")
        print("\ngeoclip COMMAND --help shows the options of a command.")
        return 0
    name = arguments.pop(0)
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"geoclip: error: there is no {name!r}; choose from {known}", file=sys.stderr)
        return 2

    # threads that wait for each other spin by default: on a busy computer, torch's take ten times
    # the processor time of the work. It must be set before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # imported here, so that the help above answers at once
    import tyro

    from geoclip_core.commands import CLASSES
    from geoclip_core.errors import sentence

    use_utf8()
    command = tyro.cli(
        CLASSES[name],
        prog=f"geoclip {name}",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return command.run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except (OSError, ValueError) as error:  # the errors of geoclip_core are ValueErrors
        print(f"geoclip {name}: error: {sentence(error)}", file=sys.stderr)
        return 1


def use_utf8() -> None:
    """Write standard output and errors in UTF-8, with escapes where a stream cannot.

    Redirected output has the code page of the platform, which lacks most file and place names; one
    of them would end the command. A terminal keeps its encoding.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


if __name__ == "__main__":
    raise SystemExit(main())
