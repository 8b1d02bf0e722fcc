"""Mutated files of cases, results and baselines: a clear error, or content that is what it says."""

import copy
import json

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import own_baseline
from fluxfast.bench.cases.own import planned_own_cases
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_result, result_path
from fluxfast.bench.results.summary import summarize
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS
from fluxfast.bench.verdicts.tables import verdict_table
from fluxfast.errors import ArtifactError, FluxFastError
from fluxfast.mini import WEIGHTS
from fluxfast.optimizations.compilation import _manifest
from tests.fuzz.mutations import at, places
from tests.support.machines import CPU, H200
from tests.support.own_cases import EVERY_KEY, LOSSLESS
from tests.support.results import CANARIES, result

METRICS = [metric.name for metric in PERFORMANCE_METRICS]
mutated = settings(max_examples=120, derandomize=True, deadline=None, database=None)

NUMBERS = (-1, 0, 1, 3, 10**400, 2**70, 0.05, 1.5, float("nan"), float("inf"), -0.0)
WORDS = ("", " ", "a", "1", "bf16", "eager", "my-dev", "64x64", "9" * 400, "\x00", "\ud800")
NESTED = ([], [1], ["a", "a"], [[]], {}, {"path": "a"}, {"a": 1}, {1: 2}, {"step_ms": 0.1})
VALUES = st.sampled_from((None, True, *NUMBERS, *WORDS, *NESTED))
DAMAGE = [
    "",
    "\n",
    ": ",
    "[",
    "]",
    "'",
    '"',
    "\0",
    "&a *a",
    "{",
    "}",
    "!!int ",
    "!!python/name:os.x ",
]


@st.composite
def mutation(draw, document, keys):
    """Return the document with one or two values replaced, removed or added."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from(list(places(changed))))
        parent = at(changed, path)
        action = draw(st.sampled_from(["replace", "replace", "resemble", "remove", "add"]))
        if action == "remove" and len(parent) > 1:
            del parent[last]
        elif action == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(keys))] = copy.deepcopy(draw(VALUES))
        elif action == "resemble":  # a value of the same type, which may be right there
            values = [at(changed, place) for place in places(changed)]
            same = [value for value in values if type(value) is type(parent[last])]
            parent[last] = copy.deepcopy(draw(st.sampled_from(same)))
        else:
            parent[last] = copy.deepcopy(draw(VALUES))
    return changed


@st.composite
def damaged(draw, text):
    """Return a text as it is, or with one place overwritten or cut off."""
    if draw(st.integers(0, 5)):
        return text
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(st.sampled_from(DAMAGE)) + text[place + draw(st.integers(0, 9)) :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "my-dev").symlink_to(WEIGHTS / "mini-dev")
    return folder


CASES = {"cases": [EVERY_KEY, LOSSLESS]}
STEPS = {"dev": 28, "schnell": 4}
KEYS_OF_A_CASE = (*EVERY_KEY, "preset", "lora", "size", 1)


@st.composite
def files_of_cases(draw):
    changed = draw(mutation(CASES, KEYS_OF_A_CASE))
    return draw(damaged(yaml.safe_dump(changed, sort_keys=False)))


@mutated
@given(text=files_of_cases())
@example(text=yaml.safe_dump(CASES))
def test_a_file_of_cases_is_refused_or_planned_as_written(folder, text):
    path = folder / "cases.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        planned, _ = planned_own_cases(path, "smoke", CPU, METRICS)
    except FluxFastError as error:
        assert str(error).encode() and text != yaml.safe_dump(CASES)
        return
    for entry in yaml.safe_load(text)["cases"]:
        assert set(entry) <= set(KEYS_OF_A_CASE) - {"size", 1}
        assert any(is_as_written(p, entry) for p in planned), entry
    assert len({p.case.id for p in planned}) == len(planned)


def is_as_written(planned, entry) -> bool:
    """Return whether a case may come from an entry: each value that the entry has is the case's."""
    request, case = planned.plan.situation.request, planned.case
    prompts, sides = entry.get("prompt", request.prompt), entry.get("resolution", "any")
    return (
        case.weights.startswith(entry["checkpoint"].replace("-", "_"))
        and request.prompt in (prompts if isinstance(prompts, list) else [prompts])
        and request.num_inference_steps == entry.get("num_inference_steps", STEPS[case.model])
        and request.batch_size == entry.get("batch_size", 1)
        and request.guidance_scale == entry.get("guidance_scale", request.guidance_scale)
        and (sides == "any" or str(request.height) in str(sides))
        and set(case.optimizations) == set(entry.get("optimizations", case.optimizations))
        and planned.tolerances == entry.get("tolerances", {})
    )


RESULT = result(canaries=CANARIES, kernels={"gemm": ("a", "b")})
WRITTEN = json.loads(json.dumps(RESULT.to_json()))
ACCEPTED = {RESULT.case.id: tuple(result(2 + n / 100, canaries=CANARIES) for n in range(3))}


@mutated
@given(data=mutation(WRITTEN, tuple(WRITTEN)), cut=st.data())
def test_a_result_is_refused_or_judged(folder, data, cut):
    path = result_path(folder, result().case)
    text = cut.draw(damaged(json.dumps(data)))
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        found = read_result(path)
    except FluxFastError:
        return
    verdict = baseline_of(folder).judge([found])
    assert verdict.outcome and verdict_table([("label", summarize([found]), verdict)])
    assert CaseResult.from_json(json.loads(json.dumps(found.to_json())), "again") == found
    assert found.to_json().items() >= {k: json.loads(text)[k] for k in ("counters", "case")}.items()


def baseline_of(folder) -> Baseline:
    empty = own_baseline(folder / "cases.yaml", "auto", H200)
    return type(empty)(gpu=empty.gpu, results=ACCEPTED, path=folder / "baseline.json")


@pytest.fixture(scope="module")
def written(folder):
    write_baseline(baseline_of(folder))
    return json.loads((folder / "baseline.json").read_text())


@mutated
@given(draw=st.data())
def test_a_baseline_is_refused_or_judges(folder, written, draw):
    path = folder / "baseline.json"
    data = draw.draw(mutation(written, (*written, *written["cases"][0]["processes"][0])))
    path.write_text(draw.draw(damaged(json.dumps(data))), encoding="utf-8", errors="surrogatepass")
    try:
        baseline = read_baseline(path)
    except FluxFastError:
        return
    assert baseline.judge([RESULT]).outcome and baseline.gpu.describes(H200) in (True, False)
    write_baseline(baseline)
    assert read_baseline(path).results.keys() == baseline.results.keys()


DESCRIPTION = {"schema": _manifest.SCHEMA, "model": "dev", "height": 64, "width": 64,
               "batch_size": 1, "max_sequence_length": 32, "optimizations": ["export_aoti"],
               "unquantized": [], "gpu": "a GPU", "stack": {"torch": "2.13.0"}}  # fmt: skip
PACKAGES = {
    name: {"sha256": "0" * 64, "options": {"epilogue_fusion": False},
           "inputs": [{"tensor": [[1, 2], [2, 1], "torch.float32", "cpu"]}, {"value": None}],
           "constants": {"x.weight": [[2], [1], "torch.float32", "cpu"]}}
    for name in ("transformer", "decoder")
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    _manifest.write(folder, DESCRIPTION, PACKAGES)
    return folder / _manifest.FILE


@mutated
@given(data=st.data())
def test_a_mutated_manifest_is_refused_or_the_same(data, manifest):
    content = json.loads(manifest.read_text())
    changed = data.draw(mutation(content, keys=("schema", "packages", "other")))
    text = json.dumps(changed)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.sampled_from(DAMAGE)) + text[place + 1 :]
    other = manifest.parent / "other"
    other.mkdir(exist_ok=True)
    (other / _manifest.FILE).write_text(text, encoding="utf-8", errors="replace")
    try:
        assert _manifest.read(other, DESCRIPTION) == PACKAGES and json.loads(text) == content
    except ArtifactError as error:
        assert error.got and error.allowed and error.remedy
