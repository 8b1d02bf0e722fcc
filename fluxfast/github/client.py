"""Other programs, and the statuses that ours end with."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PASSED, FAILED = 0, 1
NOT_JUDGED = 6  # as `pytest perf_tests` ends on an invalid runner


def run(*command: str) -> str:
    """Standard output. Raises CalledProcessError, with what the command said on our own error."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def gh(*arguments: str) -> Any:
    """What gh answers, as JSON where it is."""
    answer = run("gh", *arguments)
    return json.loads(answer) if answer[:1] in ("[", "{") else answer


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
