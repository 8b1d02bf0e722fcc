"""Run one case and say how it ended."""

import io
import json
import re
import shutil
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from random import Random

from markdown_it import MarkdownIt

from fluxfast.cli.main import main
from fluxfast.errors import FluxFastError
from tests.fuzz.mutations import MARKUP, MENTION

ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"
PACKAGE = re.compile(r"/(fluxfast/[\w/]+\.py)$")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table"])


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file that is read.

    Attributes:
        name: the kind.
        weight: how many of all cases it gets, relative to the others.
        feed: writes mutated files into an empty folder and feeds them to a reader.
    """

    name: str
    weight: int
    feed: Callable[[Random, Path], object]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of one case.

    Attributes:
        number: the number of the case.
        kind: the name of its kind.
        end: ACCEPTED, REFUSED or FAILED.
        place: where it failed, and how; "" if it did not.
    """

    number: int
    kind: str
    end: str
    place: str = ""


class Insane(Exception):
    """A reader accepted a file, and what it printed is not sane."""


def outcome_of(kind: Kind, seed: int, number: int, folder: Path) -> Outcome:
    """Run one case in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    end, place = ACCEPTED, ""
    try:
        kind.feed(Random(f"{seed} {number}"), folder)
    except FluxFastError as error:
        end = REFUSED
        if not (error.problem and error.allowed and error.remedy):
            end, place = FAILED, f"an error without a remedy: {error.problem}"
        if CONTROL.search(str(error)):
            end, place = FAILED, f"an error with a control character: {error.problem}"
    except (Exception, SystemExit) as error:
        end, place = FAILED, place_of(error)
    return Outcome(number=number, kind=kind.name, end=end, place=place)


def place_of(error: BaseException) -> str:
    """Return the innermost line of the package that an error passed, and its type."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [(found[1], f.lineno) for f in frames if (found := PACKAGE.search(f.filename))]
    where = "{}:{}".format(*ours[-1]) if ours and not isinstance(error, Insane) else "output"
    return f"{where} {type(error).__name__}: {str(error)[:90]!r}"


def command(*words: object) -> str:
    """Return what `fluxfast WORDS` prints; a refusal of the command is raised."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(word) for word in words])
    check_printed(out.getvalue() + err.getvalue())
    if status == 2:
        message = err.getvalue()
        if not all(part in message for part in ("got:", "allowed:", "remedy:")):
            raise Insane(f"a refusal without a remedy: {message[:200]}")
        raise FluxFastError("refused", got=message, allowed="see there", remedy="see there")
    if status:
        raise Insane(f"exit status {status}")
    return out.getvalue()


def check_printed(text: str) -> None:
    """Raise Insane for control characters, which a terminal would obey."""
    if found := CONTROL.search(text):
        raise Insane(f"a control character {found[0]!r} in the output")


def strict_json(text: str) -> object:
    """Return the content of JSON without NaN or infinity, which are no JSON."""

    def refuse(constant: str):
        raise Insane(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)


def check_page(text: str) -> None:
    """Raise Insane if a page has a tag that a file brought."""
    parser = _Tags()
    parser.feed(text)
    if MARKUP in parser.found:
        raise Insane("markup of a file in a page")


def check_markdown(text: str) -> None:
    """Raise Insane if a summary has a tag or a mention that a file brought."""
    page = MARKDOWN.render(text)
    check_page(page)
    shown = re.sub(r"<code.*?</code>", "", page, flags=re.DOTALL)
    if f"@{MENTION}" in shown or "javascript:" in re.sub(r">[^<]*<", "><", shown):
        raise Insane("a mention or a link of a file in a summary")
