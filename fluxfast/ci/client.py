"""Run other programs, print, and write job summaries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LONGEST_BODY = 65_000  # characters of a comment or description; GitHub's limit is 65,536


def output_of(*command: str) -> str:
    """Return the standard output of a command; its standard error is passed through.

    Raises:
        CalledProcessError: the command failed.
    """
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def gh(*arguments: str) -> Any:
    """Return the output of gh, parsed if it is JSON."""
    answer = output_of("gh", *arguments)
    return json.loads(answer) if answer[:1] in ("[", "{") else answer


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Print a text and add it to the summary of the job."""
    say(text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")


def truncated(text: str) -> str:
    """Return as much of a body as GitHub accepts."""
    if len(text) <= LONGEST_BODY:
        return text
    return text[:LONGEST_BODY] + "\n\n… truncated; the artifacts of this run have the full report."


def with_body(text: str, *command: str) -> None:
    """Run a command of gh whose last argument ends with the name of a file that holds `text`."""
    with tempfile.NamedTemporaryFile("w", suffix=".md", encoding="utf-8") as file:
        file.write(truncated(text))
        file.flush()
        gh(*command[:-1], f"{command[-1]}{file.name}")
