"""Docstrings and documents are plain sentences in the vocabulary of the field."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted((REPOSITORY / "fluxfast").rglob("*.py"))
DOCUMENTS = sorted(
    path
    for path in (REPOSITORY / "docs").rglob("*.md")
    if "notebook" not in path.relative_to(REPOSITORY).parts
) + [REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]

# A docstring that begins so is a fragment: a sentence names its subject or begins with a verb.
FRAGMENT = re.compile(r"(Of|What|As|Whether|How|Where|Those|That which)\b")

# Words that only the former dialect used in this sense, and the words of the field.
WORDS = {
    r"in force\b": "active",
    r"\b(?:can|cannot|can not|could not) be had\b": "supported, not supported",
    r"\ball on\b(?! (?:the|one|a|its|disk|your)\b)": "default optimizations",
    r"\beach one off\b": "leave-one-out ablation",
    r"\bstaircase\b": "cumulative ablation",
    r"\bheld back\b": "throttled",
    r"\bthe host is late\b|\bhost-bound\b": "launch-bound, CPU-bound",
    r"\bpower takes back\b|\bat the power limit\b": "power-limited",
    r"\ba lead, not more\b": "single-process result, indicative only",
    r"\bcredit after a pause\b": "boost clock after an idle period",
    r"\bturned heads?\b|\bheads? (?:is|are) turned\b": "rotated, RoPE applied",
    r"\bsmallest change (?:that )?it can see\b": "minimum detectable change",
    r"\bwhat bounds it\b": "bottleneck",
    r"\bown pace\b": "machine calibration",
    r"\bmade (?:results|world|history|pictures|weights)\b": "synthetic",
    r"\b(?:why_not|objection)s?\b": "why_unsupported",
    r"\bblamed?\b": "attribution",
    r"\bdraw(?:s|n|ing)?\b(?! (?:from|at random|a random|[a-z ]*sample))|\bdrew\b": "generate",
    r"\b(?:is|are|was|were|be|been) told\b|\b(?:it|that|which|and|page|log) tells\b": "report",
    r"\b(?:page|table|report|baseline|error|log|program|command|gate) says\b": "report, print",
    r"\bask(?:ed|s) for but\b": "requested but not active",
    r"\bpictures?\b": "image",
}

ANY_WORD = re.compile("|".join(WORDS), re.IGNORECASE)  # most texts have none

# The documented exceptions: text that a program or a stored file prescribes.
EXEMPT_PHRASES = ("docs/pictures", "pictures/", "make it a pencil drawing")


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Return every node of a module's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and text of every docstring of a module.

    "Whether X holds." is a docstring of a property, and of nothing else.
    """
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in nodes(path):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
            is_property = any(name.endswith("property") for name in decorators)
            yield node.body[0].lineno, text.removeprefix("Whether ") if is_property else text


def comments_and_strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each comment, and each string that has a space, with its line number."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if found := re.search(r"(?:^|\s)# (.*)$", line):
            yield number, found[1]
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a Markdown document without code, links' targets and quoted output."""
    in_code = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            in_code = not in_code
        elif not in_code:
            line = re.sub(r"`[^`]*`", "`code`", line)
            yield number, re.sub(r"\]\([^)]*\)", "]", line)


def words_of_the_dialect(text: str) -> list[str]:
    for phrase in EXEMPT_PHRASES:
        text = text.replace(phrase, "")
    if not ANY_WORD.search(text):
        return []
    return [
        f"{found[0]!r} (write: {better})"
        for pattern, better in WORDS.items()
        if (found := re.search(pattern, text, re.IGNORECASE))
    ]


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_docstrings_are_sentences():
    found = [
        f"{relative(path)}:{line}: {text.splitlines()[0]}"
        for path in MODULES
        for line, text in docstrings(path)
        if FRAGMENT.match(text)
    ]
    assert not found, "\n".join(["docstrings that begin with a fragment:", *found])


def test_words_are_those_of_the_field():
    found = [
        f"{relative(path)}:{line}: {', '.join(words)}"
        for path in (*MODULES, *DOCUMENTS)
        for line, text in (prose(path) if path.suffix == ".md" else comments_and_strings(path))
        if (words := words_of_the_dialect(text))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("an optimization that is not in force", 1),
        ("What is drawn with all on is a staircase.", 3),
        ("The clocks are read, and the run is reported as throttled.", 0),
        ("Draw from a normal distribution.", 0),
    ],
)
def test_the_dialect_is_recognized(text, words):
    assert len(words_of_the_dialect(text)) == words
