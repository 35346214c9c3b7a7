"""From the name of a command to its module, which is imported only when it is called."""

import importlib
import sys
from collections.abc import Mapping, Sequence

from train.command_line import parse


def dispatch(prog: str, package: str, commands: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Run the command that the arguments name and return its exit status.

    A command is a module of the package with an ``Options`` dataclass and ``run(options)``, or with
    a ``main(arguments)`` if there are commands below it.

    Args:
        prog: what was typed before the arguments.
        package: where the modules are.
        commands: name -> what it does, in a few words.
        arguments: the name of a command and its options.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {prog} COMMAND [options]\n\ncommands:")
        for name, text in commands.items():
            print(f"  {name:<15} {text}")
        print(f"\n{prog} COMMAND --help shows a command's options.")
        return 0
    name = arguments[0]
    if name not in commands:
        print(f"{prog}: no command {name!r}; there are {', '.join(commands)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
    if hasattr(module, "main"):
        return module.main(arguments[1:])
    options = parse(
        module.Options, arguments[1:], prog=f"{prog} {name}", description=module.__doc__
    )
    try:
        return module.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"{prog} {name}: error: {error}", file=sys.stderr)
        return 1
