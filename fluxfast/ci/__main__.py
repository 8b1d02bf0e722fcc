"""The command line of `python -m fluxfast.ci`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fluxfast import ci
from fluxfast.bench.verdicts.outcome import FAILED_STATUS
from fluxfast.ci.nights import accepted, issues, keep
from fluxfast.ci.proposals import proposal, propose
from fluxfast.ci.pulls import again, comment, gate, measured, summary, wanted
from fluxfast.ci.upgrades import pins, upgrade
from fluxfast.errors import FluxFastError


def parser() -> argparse.ArgumentParser:
    """Return the parser, with one command for each function."""
    top = argparse.ArgumentParser(prog="python -m fluxfast.ci", description=ci.__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, **options: dict[str, Any]) -> None:
        one = commands.add_parser(function.__name__, help=function.__doc__.splitlines()[0])
        for name, settings in options.items():
            one.add_argument(f"--{name}", **({"required": True} | settings))
        one.set_defaults(run=function)

    path = {"type": Path}
    command(wanted, base={}, pull={}, output={})
    command(again, pull={}, commit={})
    command(measured, result={})
    command(summary, body=path)
    command(comment, pull={}, body=path, report=path, junit=path)
    command(gate, report=path, junit=path, pull={"required": False})
    command(pins, base={}, output={})
    command(upgrade, report=path, body=path)
    command(accepted, database=path)
    command(issues, history=path)
    command(keep, database=path, folder=path)
    results = path | {"nargs": "+"}
    command(proposal, report=path, history=path, body=path, results=results, output=path)
    command(propose, proposal=path, base={})
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except FluxFastError as error:
        sys.stderr.write(f"fluxfast.ci: {error}\n")
        return FAILED_STATUS
    except subprocess.CalledProcessError as error:
        command = " ".join(error.cmd[:3])
        sys.stderr.write(f"fluxfast.ci: {command} … failed with exit status {error.returncode}\n")
        return FAILED_STATUS


if __name__ == "__main__":
    sys.exit(main())
