"""Fills in the table of errors, and turns links to files outside the documentation into text."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "fluxfast"
PLACE = "<!-- every error -->"
PARTS = ("allowed", "remedy")
ON_GITHUB = "On GitHub this page is empty; `make site` generates its content.\n"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./\.\./[^)]*\)")  # a link to a file that is not a page


def on_page_markdown(markdown: str, **_: object) -> str:
    markdown = OUTSIDE.sub(r"\1", markdown.replace(ON_GITHUB, ""))
    return markdown.replace(PLACE, table()) if PLACE in markdown else markdown


def table() -> str:
    rows = sorted({row for path in SOURCE.rglob("*.py") for row in errors_of(path)})
    lines = ["| error | allowed | remedy |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(cell, row))} |" for row in rows)])


def errors_of(path: Path) -> list[tuple[str, ...]]:
    """(problem, allowed, remedy) of each error that the file raises; `…` for what varies."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if node.args and {"got", *PARTS} <= set(given):
                found.append((text(node.args[0]), *(text(given[part]) for part in PARTS)))
    return found


def text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) for part in node.values)
    return "…"


def cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")
