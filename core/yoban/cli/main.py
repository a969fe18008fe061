"""`yoban COMMAND`: finds the command's module, imports nothing else, and turns errors into one readable line.

Exit codes: 0 done, 1 an error of ours or of the user's (printed on standard error), 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yoban import __version__
from yoban.errors import YobanError


@dataclass(frozen=True, slots=True)
class Command:
    """A command: the module whose `main(arguments)` runs it, and a line of help."""

    module: str
    help: str


COMMANDS: Mapping[str, Command] = {
    "operator": Command("yoban.cli.operator", "run the operator"),
    "agent": Command("yoban.cli.agent", "run the agent of one instance (the supervisor starts it)"),
    "install": Command("yoban.cli.install", "copy the runtime into a folder (the init container of an instance)"),
    "plugins": Command("yoban.cli.plugins", "list the plugins, what they can do, and why one is not enabled"),
    "crds": Command("yoban.cli.crds", "print the custom resource definitions, or write them into a folder"),
    "status": Command("yoban.cli.status", "show a Database: instances, roles, lag, window, archive"),
    "trace": Command("yoban.cli.trace", "show the trace of a Backup as a waterfall"),
    "version": Command("yoban.cli.version", "print the version"),
}
KUBECTL = ("status", "trace", "version")
"""Commands of `kubectl yoban`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `yoban` with the arguments (those of the process by default) and return the exit code."""
    return dispatch("yoban", COMMANDS, sys.argv[1:] if arguments is None else arguments)


def kubectl_main(arguments: Sequence[str] | None = None) -> int:
    """Run `kubectl yoban`, whose commands are those for users."""
    chosen = {name: COMMANDS[name] for name in KUBECTL}
    return dispatch("kubectl yoban", chosen, sys.argv[1:] if arguments is None else arguments)


def dispatch(program: str, commands: Mapping[str, Command], arguments: Sequence[str]) -> int:
    """Run one of `commands`. Never raises but for SystemExit by argparse (2 for wrong arguments, 0 for `--help`)."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(program, commands))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"yoban {__version__}")
        return 0
    command = commands.get(arguments[0])
    if command is None:
        print(f"{program}: unknown command {arguments[0]!r}\n\n{usage(program, commands)}", file=sys.stderr)
        return 2
    try:
        code = importlib.import_module(command.module).main(list(arguments[1:]))
        sys.stdout.flush()
        return int(code)
    except YobanError as error:
        logging.getLogger(__name__).debug("the command failed", exc_info=True)
        print(f"{program} {arguments[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def usage(program: str, commands: Mapping[str, Command]) -> str:
    """Return the list of commands with a line each."""
    width = max(map(len, commands))
    lines = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in commands.items())
    return f"usage: {program} COMMAND …\n\n{lines}\n\n`{program} COMMAND --help` tells more."


if __name__ == "__main__":
    sys.exit(main())
