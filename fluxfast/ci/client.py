"""Other programs, and the statuses that ours end with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LONGEST_BODY = 65_000  # characters of a comment or a description; GitHub takes 65,536
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


def note(text: str) -> None:
    """Said, and put into the summary of the job."""
    say(text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")


def fitting(text: str) -> str:
    """As much of a body as GitHub takes."""
    if len(text) <= LONGEST_BODY:
        return text
    return text[:LONGEST_BODY] + "\n\n… the rest is in the page, among the artifacts."


def with_body(text: str, *command: str) -> None:
    """Run a command of gh that ends with the name of a file of this text."""
    with tempfile.NamedTemporaryFile("w", suffix=".md", encoding="utf-8") as file:
        file.write(fitting(text))
        file.flush()
        gh(*command[:-1], f"{command[-1]}{file.name}")
