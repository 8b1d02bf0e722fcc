"""Kill commands at each of their file events, and report what was lost or left behind.

Kills beyond one for each event end the next run of the command, too.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from fluxfast.console import out
from fluxfast.tables import plain_table, render
from tests.kills.events import Events, is_loaded, run_with_library

MODULES = ("sessions", "commands", "against", "export")  # of scenarios
IN_MEMORY = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)
COLUMNS = ("events", "kills", "failures")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kills; exit with 1 if one lost something or left something behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="how many (%(default)s)")
    parser.add_argument("--of", choices=MODULES, action="append", help="commands; repeat for more")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kills-", dir=IN_MEMORY) as name:
        if not is_loaded():
            words = sys.argv[1:] if arguments is None else arguments
            return run_with_library(["-m", "tests.kills", *words], Path(name))
        return run(options.kills, options.of or MODULES, Path(name))


def run(kills: int, modules: Iterable[str], folder: Path) -> int:
    """Kill the commands of some modules in copies of their folders; print a table."""
    from tests.kills.runner import prepared

    began, events = time.monotonic(), Events()
    scenarios = [s for m in modules for s in import_module(f"tests.kills.{m}").SCENARIOS]
    ready = [prepared(one, events, folder / str(n)) for n, one in enumerate(scenarios)]
    table = plain_table("command", *COLUMNS, numbers=COLUMNS)
    failed: list[str] = []
    counts = [one.events for one in ready]
    first, twice = shared(counts, kills), shared(counts, max(0, kills - sum(counts) + 1) // 2)
    for one, once, both in zip(ready, first, twice, strict=True):
        wrong = list(killed(one, once, both, events, folder / "killed"))
        failed += wrong
        table.add_row(one.scenario.name, *map(str, (one.events, once + 2 * both, len(wrong))))
        sys.stderr.write(f"{one.scenario.name}: {time.monotonic() - began:.0f} s\n")
    total = sum(first) + 2 * sum(twice)
    table.add_row("all", *map(str, (sum(counts), total, len(failed))))
    out("\n".join([render(table), *failed]))
    return int(bool(failed))


def killed(one, once: int, twice: int, events: Events, folder: Path) -> Iterator[str]:
    """Kill a command so often, and so often with its next run; yield what is wrong."""
    from tests.kills.runner import kill

    places = [(at, 0) for at in spread(one.events, once)]
    places += [(at, 1 + 7 * at % one.events) for at in spread(one.events, twice)]
    for at, next_at in places:
        if text := kill(one, at, events, folder, next_at):
            yield f"{one.scenario.name}, events {at} and {next_at}: {text}"


def shared(events: Sequence[int], kills: int) -> list[int]:
    """Return how many kills each command gets: as many for each, but at most one per event."""
    shares = [0] * len(events)
    left = min(kills, sum(events))
    while left:
        for n, count in enumerate(events):
            if left and shares[n] < count:
                shares[n] += 1
                left -= 1
    return shares


def spread(events: int, kills: int) -> list[int]:
    """Return as many numbers of events, from 1 on, evenly spread."""
    return sorted({round((n + 0.5) * events / kills + 0.5) for n in range(kills)}) if kills else []


if __name__ == "__main__":
    sys.exit(main())
