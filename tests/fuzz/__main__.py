"""The command: run cases, and report how many ended in which way."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from fluxfast.console import out
from fluxfast.tables import plain_table, render
from tests.fuzz.kinds import KINDS
from tests.fuzz.outcomes import ACCEPTED, FAILED, REFUSED, Kind, Outcome
from tests.fuzz.workers import outcomes

PROGRESS_EVERY = 500
IN_MEMORY = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)


def kind_of_case(seed: int, number: int) -> Kind:
    """Return the kind of a case, which its seed and number decide."""
    random = Random(f"kind {seed} {number}")
    return random.choices(KINDS, [kind.weight for kind in KINDS])[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all mutations (%(default)s)")
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="repeat one case in this process"
    )
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], help="cases of one kind")
    options = parser.parse_args(arguments)

    def kind_of(number: int) -> Kind:
        return kind_of_case(options.seed, number)

    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=IN_MEMORY) as name:
        folder = Path(name)
        if options.only is not None:
            kind = kind_of(options.only)
            out(kind.name)
            kind.feed(Random(f"{options.seed} {options.only}"), folder)
            return 0
        numbers = [n for n in range(options.cases) if options.kind in (None, kind_of(n).name)]
        began, found = time.monotonic(), list[Outcome]()
        for outcome in outcomes(numbers, kind_of, options.seed, folder):
            found.append(outcome)
            if outcome.end == FAILED:
                sys.stderr.write(f"case {outcome.number}, {outcome.kind}: {outcome.place}\n")
            if len(found) % PROGRESS_EVERY == 0:
                failed = sum(one.end == FAILED for one in found)
                spent_s = time.monotonic() - began
                sys.stderr.write(f"{len(found)} cases, {failed} failures, {spent_s:.0f} s\n")
    out("\n".join([table(found), *failures(found, options.seed)]))
    return int(any(one.end == FAILED for one in found))


def table(found: Sequence[Outcome]) -> str:
    """Return how many cases of each kind ended in which way."""
    columns = (REFUSED, ACCEPTED, FAILED)
    shown = plain_table("kind", "cases", *columns, numbers=("cases", *columns))
    for kind in [*(kind.name for kind in KINDS), "all"]:
        ends = Counter(one.end for one in found if kind in (one.kind, "all"))
        if ends:
            shown.add_row(kind, str(ends.total()), *(str(ends[end]) for end in columns))
    return render(shown)


def failures(found: Sequence[Outcome], seed: int) -> list[str]:
    """Return each place of failures with their number and the command that repeats the first."""
    places: dict[tuple[str, str], list[int]] = {}
    for one in found:
        if one.end == FAILED:
            places.setdefault((one.kind, one.place), []).append(one.number)
    return [
        f"{len(numbers)}× {kind}: {place}\n"
        f"    python -m tests.fuzz --seed {seed} --only {min(numbers)}"
        for (kind, place), numbers in sorted(places.items(), key=lambda item: -len(item[1]))
    ]


if __name__ == "__main__":
    sys.exit(main())
