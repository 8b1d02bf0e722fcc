"""`fluxfast`: generate, bench, matrix, doctor, baseline, selftest, roofline, profile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fluxfast.commands import (
    baseline,
    bench,
    doctor,
    generate,
    matrix,
    profile,
    roofline,
    selftest,
)
from fluxfast.console import quiet_libraries
from fluxfast.errors import FluxFastError

COMMANDS = (generate, bench, matrix, doctor, baseline, selftest, roofline, profile)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="fluxfast",
        description="Optimized Flux.1 image generation, and the suite that guards it.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 for success, 2 for a mistake in what was asked, 130 for Ctrl-C."""
    quiet_libraries()
    options = parser().parse_args(arguments)
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
