"""The `fluxfast` command: each subcommand is a module that is imported when it is used."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module

from fluxfast import __version__
from fluxfast.console import quiet_libraries
from fluxfast.errors import FluxFastError

COMMANDS = (
    "generate",
    "bench",
    "matrix",
    "doctor",
    "baseline",
    "selftest",
    "roofline",
    "profile",
    "report",
    "history",
    "merge",
)


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of every command, or only of the one that `arguments` begin with.

    Some commands take seconds to import.
    """
    top = argparse.ArgumentParser(
        prog="fluxfast",
        description="Fast Flux.1 image generation, and the suite that detects its regressions.",
    )
    top.add_argument("--version", action="version", version=f"fluxfast {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    if list(arguments[:1]) == ["--version"]:
        return top
    named = [name for name in COMMANDS if name in arguments[:1]]
    for name in named or COMMANDS:
        import_module(f"fluxfast.cli.{name}").add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; None for the process's own.

    Returns:
        The exit status: 0 for success, 2 for an error that the user can correct, 130 for Ctrl-C.
    """
    quiet_libraries()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(arguments).parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except FluxFastError as error:
        sys.stderr.write(f"fluxfast: {error}\n")
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        sys.stderr.write(f"fluxfast: {_too_long(error)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("fluxfast: interrupted; every file that was written is complete\n")
        return 130


def _too_long(error: OSError) -> FluxFastError:
    return FluxFastError(
        "a path is longer than this file system allows",
        got=error.filename,
        allowed="usually 255 bytes for a name, 4,096 for a path",
        remedy="shorten the path",
    )


if __name__ == "__main__":
    sys.exit(main())
