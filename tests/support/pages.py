"""The commands and snippets of the documentation, and how a test runs each command.

Unchanged: a command that needs neither a GPU nor minutes, on synthetic results where it reads
results. Forgotten: on a synthetic baseline. Rehearsed: a command that needs a GPU runs on a
described one, where only the pipeline and the clock are replaced (`rehearsal.py`). Collected: a
command that takes a CPU minutes is planned and collected. `make` calls stand-ins; cpu.yml calls the
real programs. `pip install` is only checked against pyproject.toml.
"""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
JSON = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"^for (\w+) in (\w+)[\w ]*; do (.*); done$")

# How a command is run, by its beginning; the first that matches.
WAYS = {
    "accepted into an own baseline": ("fluxfast baseline accept --cases ",),
    "added": ("fluxfast baseline add-card ",),
    "forgotten": ("fluxfast baseline forget",),
    "accepted": ("fluxfast baseline accept", "fluxfast matrix --gpu b200"),
    "smaller": ("fluxfast profile --error ",),  # by tests/e2e
    "unchanged": (
        "fluxfast doctor",
        "fluxfast matrix",
        "fluxfast baseline show",
        "fluxfast report ",
        "fluxfast history ",
        "fluxfast merge ",
        "fluxfast profile",
        "python -m tests.support.synthetic_history ",
        "git diff --stat baselines/",
        "source .venv/bin/activate",
        "python3 -m venv newest",
    ),
    "on mini weights": ("fluxfast generate --ckpt mini-schnell", "fluxfast roofline schnell-mini"),
    "rehearsed": (
        "fluxfast generate",
        "fluxfast bench",
        "fluxfast roofline --time",
        "fluxfast selftest --gpu h200",
    ),
    "collected before workers start": (
        "pytest perf_tests --gpu h200 -n ",
        "pytest perf_tests --gpu h200 --matrix ablation --record --results results -n ",
    ),
    "rehearsed by pytest": ("pytest perf_tests", "newest/bin/pytest perf_tests"),
    "collected": ("pytest correctness_tests --gpu ",),
    "collected with a fault": ("python -m pytest -p tests.support.sabotage.",),
    "bisected": (  # by tests/e2e
        "cp fluxfast/bench/ab/bisect_run.py /tmp/",
        "git checkout BAD",
        "python /tmp/bisect_run.py ",
        "git bisect ",
    ),
    "make": ("make ",),
    "refused without a GPU": tuple(
        f"python -m benchmarks.{name}"
        for name in ("epilogues", "fusions", "own_pipeline", "start", "vae")
    ),
    "parsed by torchrun": ("torchrun ",),  # tests/e2e calls the ranks of such a script
    "read": ("pip install ", "newest/bin/pip install ", "pytest tests"),
}


def _commands() -> dict[str, str]:
    """Return the commands of all console blocks with their pages; a loop is its first round."""
    found = {}
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.splitlines():
                line = line.partition("  #")[0].strip()
                if loop := LOOP.match(line):
                    line = loop[3].replace(f"${loop[1]}", loop[2])
                if line:
                    found[line] = page.name
    return found


COMMANDS = _commands()


def way_of(line: str) -> str | None:
    """Return how the command is run, or None."""
    return next((way for way, begins in WAYS.items() if line.startswith(begins)), None)


def commands(way: str) -> list[str]:
    """Return the commands that are run in this way, in the order of the pages."""
    return [line for line in COMMANDS if way_of(line) == way]


def snippets(page: str) -> list[str]:
    """Return the Python blocks of a page, by its path in the repository."""
    return PYTHON.findall((REPOSITORY / page).read_text())
