"""Text from elsewhere stays text in comments, descriptions and summaries."""

import re
from datetime import date

import pytest
from markdown_it import MarkdownIt

from fluxfast.ci.slowdowns import Slowdown
from fluxfast.ci.upgrades import Upgrade
from fluxfast.report.escaping import escaped, fenced, inert

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = (
    "@octo-org/everyone",
    "fixes #1",
    "owner/repo#12 GH-7",
    "https://evil.example/x",
    "www.evil.example",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "</details></summary><img src=x onerror=alert(1)>",
    "# heading\n## another",
    "a | b | c\n| --- |",
    "```\nout of the fence\n```",
    "*bold* ~~struck~~ \\* &lt;b&gt;",
    "<!-- fluxfast: the verdict on this pull request -->",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    page = MARKDOWN.render(
        f"- **{escaped(text)}**\n\n| a | b |\n| --- | --- |\n| {escaped(text)} | 1 |"
    )
    tags = set(re.findall(r"<(/?\w+|!)", page.lower())) - {"code", "/code"}
    assert {tag.strip("/") for tag in tags} <= {
        *("ul", "li", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"),
    }, page
    assert page.count("<td>") == 2
    shown = re.sub(r"<code>.*?</code>|<[^>]*>", "", page)
    assert not re.search(r"[@#]\w|GH-\d|\w://|www\.", shown, re.IGNORECASE)
    assert not re.search(r"[<\n]|[@#]\w", inert(text))
    (block,) = (t for t in MARKDOWN.parse(fenced(text)) if t.type == "fence")
    assert block.content == f"{text}\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text_in_issues(text):
    slowdown = Slowdown(gpu=text, since=date(2026, 11, 1), commits=(text, text), cases={text: text},
                        nights=())  # fmt: skip
    upgrade = Upgrade(change=f"torch 1 → {text}", verdict="", summary="")
    for body in (slowdown.body, upgrade.body):
        comment, _, rest = body.partition("-->")
        assert comment.startswith("<!-- fluxfast ") and ">" not in comment
        page = MARKDOWN.render(rest)
        assert {tag.strip("/") for tag in re.findall(r"<(/?\w+|!)", page)} <= {
            *("ul", "li", "p", "code"),
        }, page
        shown = re.sub(r"<code>[^<]*</code>|<[^>]*>", "", page)
        assert not re.search(r"[@#]\w|GH-\d|\w://|www\.", shown, re.IGNORECASE)


def test_text_without_markup_is_unchanged_and_code_stays_code():
    for text in (
        "dev: bf16 + fa3_fp8",
        "−14% (−15 to −13%)",
        "accept it: `fluxfast baseline accept`",
    ):
        assert escaped(text) == text
