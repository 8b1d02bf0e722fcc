"""Properties of every result: it survives files and merging in any order, and stays text."""

import json
import re
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.results.machine import gpu_from_hardware
from fluxfast.bench.results.shards import note_shard, shards_in
from fluxfast.bench.results.store import read_result, read_results, result_path, write_result
from fluxfast.history.database import METRICS, append, measurement_of, opened
from fluxfast.history.queries import metric_rows
from fluxfast.report.escaping import escaped, inert
from fluxfast.report.merge import merge
from tests.support.machines import H200
from tests.support.processes import ONE_CARD
from tests.support.results import CANARIES, case, result

steady = settings(derandomize=True, deadline=None, database=None)
NUMBERS = count()
CASES = (case(), case(optimizations=("bf16",)), case(model="schnell", optimizations=()))
positive = st.floats(1e-9, 1e9)
words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)


@st.composite
def results(draw, number=0):
    """Return a result with any figures and texts that a measurement may have."""
    images = draw(st.integers(1, 3))
    timing = result().images[0]
    figures = st.builds(
        lambda e2e_s, step_ms, clock: replace(
            timing, e2e_s=e2e_s, step_ms=tuple(step_ms), sm_clock_mhz=clock
        ),
        positive,
        st.lists(positive, min_size=1, max_size=3),
        st.none() | positive,
    )
    return result(
        case=draw(st.sampled_from(CASES)),
        images=tuple(draw(st.lists(figures, min_size=images, max_size=images))),
        environment=ONE_CARD,
        compiles=draw(st.booleans()),
        peak_memory_gib=draw(st.none() | positive),
        counters=draw(st.dictionaries(words, st.integers(0, 2**60), max_size=2)),
        proofs=draw(st.dictionaries(words, words, max_size=2)),
        kernels={"gemm": tuple(draw(st.lists(words, max_size=2)))},
        canaries=draw(st.sampled_from(({}, CANARIES))),
        device_busy=draw(st.none() | st.floats(0.01, 1.0)),
        sampling={"ended": draw(words), "warm_up": draw(st.integers(0, 9))},
        provenance={
            **{"commit": "abc", "dirty": False, "process": number, "command": draw(words)},
            "date": f"2026-11-0{1 + number % 9}T00:00:00+00:00",
        },
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that returns a new folder; hypothesis runs a test many times."""
    parent = tmp_path_factory.mktemp("properties")
    return lambda: parent / str(next(NUMBERS))


@settings(steady, max_examples=30)
@given(one=results())
def test_a_result_is_read_as_it_was_written(one, folders):
    assert read_result(write_result(folders(), one)) == one


@settings(steady, max_examples=12)
@given(found=st.tuples(results(1), results(2), results(3)))
def test_a_baseline_is_read_as_it_was_written_but_for_digits(found, folders):
    of_case = {one.case.id: tuple(o for o in found if o.case == one.case) for one in found}
    path = folders() / "baseline.json"
    gpu = gpu_from_hardware(H200, "nvidia-h200")
    write_baseline(Baseline(gpu=gpu, results=of_case, path=path))
    text, read = path.read_text(), read_baseline(path)
    for case_id, expected in of_case.items():
        for one, other in zip(expected, read.results[case_id], strict=True):
            same = {"images": one.images, "peak_memory_gib": one.peak_memory_gib}
            assert replace(other, device_busy=one.device_busy, **same) == one
            assert [image.step_ms for image in other.images] == [
                pytest.approx(image.step_ms, rel=1e-5) for image in one.images
            ]
    write_baseline(read)
    assert path.read_text() == text  # so writing again changes nothing


@settings(steady, max_examples=10)
@given(found=st.tuples(results(1), results(2)))
def test_a_history_holds_each_result_once_with_its_figures(found, folders):
    with opened(folders() / "history.sqlite3", new=True) as connection:
        measurements = [measurement_of(one) for one in found]
        assert append(connection, measurements) == 2 and append(connection, measurements) == 0
        for one in measurements:
            for metric in METRICS:
                rows = metric_rows(connection, metric, gpu=one.gpu, case=one.case_id)
                values = {row[0]: row[-1] for row in rows}
                assert values.get(one.measured_at) == one.figures[metric]


@settings(steady, max_examples=8)
@given(data=st.data())
def test_a_merge_is_the_same_in_any_order_and_when_it_is_repeated(data, folders):
    found = [data.draw(results(number)) for number in range(3)]
    parent, places = folders(), data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=6))
    for n, place in enumerate(places):  # some results are in several folders
        one = found[n % 3]
        folder = parent / str(place)
        if not result_path(folder, one.case).exists():
            write_result(folder, one)
            note_shard(folder, f"{place + 1}/3")
    shards = sorted(parent.iterdir())
    merge(shards, parent / "merged")
    merge(data.draw(st.permutations(shards)), parent / "other")
    merge([parent / "merged", *shards], parent / "again")
    merged, other, again = (identities(parent / name) for name in ("merged", "other", "again"))
    assert merged == other == again == identities(*shards)


def identities(*folders):
    """Return the content of all results and the notes of shards of folders."""
    notes = {shard for folder in folders for shard in shards_in(folder)}
    return {json.dumps(one.to_json(), sort_keys=True) for one in read_results(folders)}, notes


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKUP = ("<b>", "</details>", "<!--", "-->", "`", "``", "|", "[a](b)", "](", "*", "_", "~~", "\\")
ACTIVE = ("@name", "#12", "GH-1", "https://a.b", "www.a.b", "fixes #1", "&lt;", "&#60;", "a", " ")


@settings(steady, max_examples=150)
@given(text=st.lists(st.sampled_from((*MARKUP, *ACTIVE, "\n", "#", "- ")), max_size=8).map("".join))
def test_no_text_becomes_markup_or_an_action(text):
    page = MARKDOWN.render(f"| a | b |\n| --- | --- |\n| {escaped(text)} | 1 |")
    assert page.count("<td>") == 2
    tags = {tag.strip("/") for tag in re.findall(r"<(/?\w+|!)", page)}
    assert tags <= {"table", "thead", "tbody", "tr", "th", "td", "code"}, page
    shown = re.sub(r"<code>.*?</code>|<[^>]*>", "", page)
    assert not re.search(r"[@#]\w|GH-\d|\w://|www\.", shown, re.IGNORECASE)
    assert not re.search(r"[<\n]|[@#]\w", inert(text))
