"""`fluxfast`: one command a file, imported when it is named."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

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
    """Of every command, or of the one that `arguments` begin with: some take seconds to import."""
    top = argparse.ArgumentParser(
        prog="fluxfast",
        description="Optimized Flux.1 image generation, and the suite that guards it.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    named = [name for name in COMMANDS if name in arguments[:1]]
    for name in named or COMMANDS:
        import_module(f"fluxfast.cli.{name}").add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 for success, 2 for a mistake in what was asked, 130 for Ctrl-C."""
    quiet_libraries()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(arguments).parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except FluxFastError as error:
        sys.stderr.write(f"fluxfast: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("fluxfast: interrupted; what was written before is complete\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
