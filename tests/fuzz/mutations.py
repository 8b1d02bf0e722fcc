"""Mutations of documents, texts, bytes and files, from a seeded random generator."""

import copy
import os
from random import Random

MARKUP = "fuzz-tag"  # no page may have such a tag, whatever a file says
MENTION = "fuzz-user"
HOSTILE = (
    f"</script><{MARKUP}>",
    f'"><{MARKUP} onerror=x>',
    f"<!--<script><{MARKUP}>",
    f"@{MENTION} fixes #1 https://evil.example",
    f"</details>\n# heading\n| a | b |\n<{MARKUP}>",
    f"```\n<{MARKUP}> `[x](javascript:x)`",
    "\x1b]0;title\x07\x1b[31mred",
    "../../outside",
    "/dev/zero",
    "\x00",
    "\ud800",
    "é\u202eabc",
    "9" * 400,
    "x" * 20_000,
)
NUMBERS = (
    *(-1, 0, 1, 2, 3, 4, 10**6, 2**31, 2**63, 10**30, 10**400),
    *(-0.0, 0.05, 0.5, 1.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
)
WORDS = ("", " ", "a", "1", "nan", "bf16", "eager", "lossless", "64x64", "30 Nov 2026")
DATES = ("2099-01-01T00:00:00+00:00", "2026-11-01", "0001-01-01T00:00:00+23:59", "2026-W01-1")
NESTED = ([], [1], ["a", "a"], [[]], [None], {}, {"a": 1}, {"": None}, {"path": ["a"]})
VALUES = (None, True, False, *NUMBERS, *WORDS, *DATES, *HOSTILE, *NESTED)
DAMAGE = ("", "\n", ":", ": ", "[", "]", "{", "}", "'", '"', ",", "\\", "\0", "&a *a", "!!int ")
DEEP = 60_000


def places(document, path=()):
    """Yield the path of each value in a nested document."""
    children = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in children:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def at(document, path):
    """Return the value at a path."""
    for key in path:
        document = document[key]
    return document


def chosen_place(random: Random, document):
    """Return a place; each depth is as likely, so that long lists do not take all choices."""
    path, here = (), document
    while isinstance(here, dict | list) and here:
        key = random.choice(list(here) if isinstance(here, dict) else range(len(here)))
        path, here = (*path, key), here[key]
        if random.random() < 0.3:
            break
    return path


def mutated(random: Random, document, keys=("x", "")):
    """Return the document with one to three values replaced, removed, added or moved."""
    changed = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        path = chosen_place(random, changed)
        if not path:
            return random.choice(VALUES)
        parent, last = at(changed, path[:-1]), path[-1]
        action = random.choice(("replace", "replace", "replace", "resemble", "remove", "add"))
        if action == "remove":
            del parent[last]
        elif action == "add" and isinstance(parent, dict):
            key = random.choice((*keys, *HOSTILE))
            parent[key] = copy.deepcopy(random.choice(VALUES))
        elif action == "add":
            parent.append(copy.deepcopy(random.choice((*VALUES, parent[last]))))
        elif action == "resemble":
            values = [at(changed, place) for place in places(changed)]
            same = [value for value in values if type(value) is type(parent[last])]
            parent[last] = copy.deepcopy(random.choice(same))
        else:
            parent[last] = copy.deepcopy(random.choice(VALUES))
    return changed


def damaged(random: Random, text: str) -> str:
    """Return the text with one place overwritten, cut off, repeated or nested too deeply."""
    start = random.randint(0, len(text))
    match random.choice(("overwrite", "overwrite", "cut", "repeat", "deep")):
        case "overwrite":
            return text[:start] + random.choice(DAMAGE) + text[start + random.randint(0, 9) :]
        case "cut":
            return text[:start]
        case "repeat":
            return text[:start] + text[start : start + 80] * 2 + text[start + 80 :]
    opening = random.choice(("[", '{"a":', "- ", "("))
    return text[:start] + opening * DEEP + text[start:]


def damaged_bytes(random: Random, content: bytes) -> bytes:
    """Return the bytes with some of them flipped, cut off, inserted or zeroed."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        start = random.randint(0, max(0, min(len(changed), random.choice((64, 4096, 10**9))) - 1))
        match random.choice(("flip", "flip", "number", "cut", "insert", "zero")):
            case "flip" if changed:
                changed[start] ^= 1 << random.randrange(8)
            case "number":
                changed[start : start + 8] = random.choice(
                    (0, 1, 2**31, 2**63, 2**64 - 1)
                ).to_bytes(8, random.choice(("little", "big")))
            case "cut":
                del changed[start:]
            case "insert":
                changed[start:start] = random.randbytes(random.choice((1, 7, 300)))
            case "zero":
                changed[start : start + 512] = bytes(len(changed[start : start + 512]))
    return bytes(changed)


def replaced_file(random: Random, path) -> None:
    """Put something that is no ordinary file in the place of a file."""
    path.unlink()
    match random.choice(("nothing", "folder", "loop", "endless", "pipe", "dangling", "secret")):
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to(path.parent / "nowhere")
        case "secret":
            path.symlink_to("/etc/passwd")
        case "nothing":
            pass
