"""Write text from elsewhere into GitHub's Markdown so that it stays text. No torch.

Names and reasons come from result files, packages and pull requests. In a comment they must not
mention a person, refer to or close an issue, link, or change the structure of the page.
"""

from __future__ import annotations

import html
import re

ZERO_WIDTH_SPACE = "\u200b"  # breaks what GitHub would turn into a mention, a reference or a link
ACTIVE = re.compile(r"(?<=[@#])(?=\w)|(?<=GH)(?=-\d)|(?=://)|(?<=www)(?=\.)", re.IGNORECASE)
CODE = re.compile(r"(`[^`\n]+`)")  # GitHub leaves these spans as they are
# An underscore between letters or digits, as in fa3_fp8, stays: it begins no emphasis.
STRUCTURE = re.compile(r"([\\`*\[\]~]|(?<![^\W_])_|_(?![^\W_]))")
TICKS = re.compile(r"`+")


def inert(text: str) -> str:
    """Return one line of text for HTML within Markdown, such as a `<summary>`."""
    return _without_actions(" ".join(text.split()))


def _without_actions(text: str) -> str:
    return ACTIVE.sub(ZERO_WIDTH_SPACE, html.escape(text, quote=False))


def escaped(text: str) -> str:
    """Return one line of text for a paragraph, list or table; spans of code stay code."""
    parts = CODE.split(" ".join(text.split()))
    shown = [p if CODE.fullmatch(p) else STRUCTURE.sub(r"\\\1", _without_actions(p)) for p in parts]
    return "".join(shown).replace("|", "\\|")


def fenced(text: str, language: str = "") -> str:
    """Return text as a block of code that no line of it can close."""
    longest = max((len(ticks) for ticks in TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def code(text: str) -> str:
    """Return one line of text as a span of code."""
    return f"`{' '.join(text.replace('`', ' ').split())}`"


def hidden(text: str) -> str:
    """Return one line of text for an HTML comment, which it cannot close."""
    return " ".join(text.replace("<", " ").replace(">", " ").split())
