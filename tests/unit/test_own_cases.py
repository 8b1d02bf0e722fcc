"""Cases of one's own: what a file of cases may hold, what is refused, and what they become."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fluxfast.bench.baselines.file import write_baseline
from fluxfast.bench.baselines.lookup import baseline_for, known_baselines, own_baseline
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.own import planned_own_cases
from fluxfast.bench.cases.planned import planned_from_id
from fluxfast.bench.results.store import write_result
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.cli.main import main
from fluxfast.errors import FluxFastError
from fluxfast.files import shipped_baselines
from fluxfast.mini import WEIGHTS
from fluxfast.models.lora.merge import merge_lora
from fluxfast.models.lora.source import LoraSource
from fluxfast.optimizations.presets import PRESETS
from fluxfast.optimizations.registry import default_names, eager_names
from fluxfast.report.reproduction import reproduction_command
from tests.support.machines import CPU, H100, H200, MI300X
from tests.support.processes import process, processes
from tests.support.results import CANARIES

METRICS = [metric.name for metric in PERFORMANCE_METRICS]


@pytest.fixture
def folder(tmp_path):
    """Return a folder with two checkpoints."""
    for model in ("dev", "schnell"):
        (tmp_path / f"my-{model}").symlink_to(WEIGHTS / f"mini-{model}")
    return tmp_path


def planned(folder, text, hardware=CPU, kind="smoke"):
    path = folder / "cases.yaml"
    path.write_text(text)
    return planned_own_cases(path, kind, hardware, METRICS)[0]


WHOLE = """
cases:
  - checkpoint: my-dev
    prompt: a large red circle
    resolution: 64x128
    batch_size: 2
    num_inference_steps: 3
    guidance_scale: 2
    optimizations: [regional, fused_projections]
    tolerances: {step_ms: 0.05}
    quality: {psnr_db: 30}
"""


def test_a_case_of_ones_own_is_a_case_like_the_others(folder):
    (found,) = planned(folder, WHOLE)
    request = found.plan.situation.request
    assert (request.height, request.width, request.batch_size) == (64, 128, 2)
    assert (request.prompt, request.guidance_scale) == ("a large red circle", 2.0)
    assert found.case.model == "dev" and found.case.weights.startswith("my_dev_")
    assert found.plan.names == found.case.optimizations == ("fused_projections", "regional")
    assert found.checkpoint.location == str(folder / "my-dev")
    assert found.tolerances == {"step_ms": 0.05} and found.quality == {"psnr_db": 30.0}
    assert Case.from_id(found.case.id) == found.case == Case.from_json(found.case.to_json(), "")
    with pytest.raises(FluxFastError, match="comes from a file of cases"):
        planned_from_id(found.case.id, CPU)


@pytest.mark.parametrize("hardware", [CPU, H200], ids=lambda machine: machine.name)
def test_an_entry_without_optimizations_takes_the_matrix(folder, hardware):
    found = planned(folder, "cases: [{checkpoint: my-dev}]", hardware)
    default = default_names(found[0].plan.situation)
    assert [p.case.optimizations for p in found] == [eager_names(hardware), default]
    assert found[1].case.eager_among([p.case for p in found]) == found[0].case
    assert len(planned(folder, "cases: [{checkpoint: my-dev}]", hardware, "ablation")) > 4


@pytest.mark.parametrize("hardware", [CPU, H200, MI300X], ids=lambda machine: machine.name)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_supported_on_every_machine(folder, hardware, preset):
    (found,) = planned(folder, f"cases: [{{checkpoint: my-schnell, preset: {preset}}}]", hardware)
    assert (found.case.optimizations == eager_names(hardware)) is (preset == "eager")


def test_lists_of_prompts_and_resolutions_give_a_case_each(folder):
    found = planned(
        folder,
        "cases: [{checkpoint: my-dev, prompt: [a, b], resolution: [64, 96x64], preset: eager}]",
    )
    assert len({p.case.id for p in found}) == len({p.label for p in found}) == 4
    assert len({p.case.workload for p in found}) == 4
    assert found[0].label.startswith("my_dev 64×64 ")


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ("checkpoint: ./my-dev, prompt: a", False),
        ("checkpoint: my-dev, prompt: a, tolerances: {e2e_s: 0.5}", False),
        ("checkpoint: my-dev, prompt: a, guidance_scale: 3.5", False),  # the default of dev
        ("checkpoint: my-dev, prompt: b", True),
        ("checkpoint: my-dev, prompt: a, guidance_scale: 3.6", True),
        ("checkpoint: mini-dev, prompt: a", True),
    ],
)
def test_the_id_follows_from_what_is_generated(folder, change, is_another):
    (one,) = planned(folder, "cases: [{checkpoint: my-dev, prompt: a, preset: eager}]")
    (other,) = planned(folder, f"cases: [{{{change}, preset: eager}}]")
    assert (one.case.id != other.case.id) is is_another


def write_lora(path, layer, rows=8, columns=4):
    """Write a LoRA that adds 2 to the first weight of a layer, at a scale of 1."""
    down, up = torch.zeros(1, columns), torch.zeros(rows, 1)
    down[0, 0] = up[0, 0] = 2**0.5
    names = (f"transformer.{layer}.lora_A.weight", f"transformer.{layer}.lora_B.weight")
    save_file(dict(zip(names, (down, up), strict=True)), path)


CACHED = """
cases:
  - checkpoint: my-dev
    resolution: 64
    {}
    cache: {}
"""
AS_A_MAPPING = (
    "{Fn_compute_blocks: 1, steps_computation_mask: slow, steps_computation_policy: static}"
)


def test_settings_of_the_cache_are_part_of_the_id(folder):
    (folder / "own.yaml").write_text("Fn_compute_blocks: 1\nmax_warmup_steps: 2\n")
    settings = ["quality", "fast", AS_A_MAPPING, "own.yaml"]
    found = [planned(folder, CACHED.format("preset: default", one))[0] for one in settings]
    assert len({one.case.id for one in found}) == 4
    assert all("dbcache" in one.plan.names for one in found)
    masks = [one.plan.situation.cache_config.steps_mask for one in found]
    assert masks == ["medium", "ultra", "slow", None]
    (listed,) = planned(folder, CACHED.format("optimizations: [dbcache]", "fast"))
    assert listed.plan.situation.cache_config == found[1].plan.situation.cache_config


@pytest.mark.parametrize(
    ("optimizations", "cache", "message"),
    [
        ("optimizations: [sdpa]", "fast", "(?s)no optimization is one.*got.*sdpa.*dbcache"),
        ("preset: default", "fastest", "quality, balanced, fast, or a YAML file"),
        ("preset: default", "[1, 0]", "settings of the cache, the name of a preset"),
        ("preset: default", "{mask: 1}", "unknown setting of the cache"),
        ("num_inference_steps: 6", "fast", "no optimization is one"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(folder, optimizations, cache, message):
    with pytest.raises(FluxFastError, match=message):
        planned(folder, CACHED.format(optimizations, cache))


def test_a_lora_is_part_of_the_checkpoint_and_of_the_id(folder):
    layer = "transformer_blocks.0.attn.to_q"
    write_lora(folder / "style.safetensors", layer)
    entry = "{checkpoint: my-dev, preset: eager, lora: {path: style.safetensors, scale: %s}}"
    (half,) = planned(folder, f"cases: [{entry % 0.5}]")
    (whole,) = planned(folder, f"cases: [{entry % 1}]")
    assert half.case.id != whole.case.id
    assert half.checkpoint.lora.location == str(folder / "style.safetensors")
    assert "with style.safetensors × 0.5" in half.checkpoint.why

    linear = nn.Linear(4, 8, bias=False)
    before = linear.weight.detach().clone()
    transformer = nn.ModuleDict()
    transformer.transformer_blocks = nn.ModuleList([nn.ModuleDict({"attn": nn.ModuleDict()})])
    transformer.transformer_blocks[0]["attn"]["to_q"] = linear
    merge_lora(transformer, half.checkpoint.lora)
    change = linear.weight.detach() - before
    assert change[0, 0].item() == pytest.approx(1) and change.count_nonzero() == 1
    write_lora(folder / "wide.safetensors", layer, columns=5)
    with pytest.raises(FluxFastError, match="another shape"):
        merge_lora(transformer, LoraSource(location=str(folder / "wide.safetensors")))


REFUSED = {
    "no such file": (None, "cannot be read"),
    "no mapping": ("- checkpoint: my-dev", "is no mapping"),
    "no cases": ("cases: []", "a list with one case or more"),
    "unknown key of the file": ("cases: [{checkpoint: my-dev}]\nmore: 1", "got:     more"),
    "unknown key": ("cases: [{checkpoint: my-dev, promt: a}]", "got:     promt"),
    "key twice": ("cases:\n  - checkpoint: a\n    checkpoint: b", "'checkpoint' is given twice"),
    "no checkpoint": ("cases: [{prompt: a}]", "case 1 of .* lacks checkpoint"),
    "no such folder": ("cases: [{checkpoint: ./nothing}]", "there is no such checkpoint"),
    "a name of the project": ("cases: [{checkpoint: dev}]", "there is no such checkpoint"),
    "control character": ('cases: [{checkpoint: "my-dev\\0"}]', r"got:     'my-dev\\x00'"),
    "half a pair": ('cases: [{checkpoint: my-dev, prompt: "\\ud800"}]', r"prompt of case 1.*ud800"),
    "empty prompt": ("cases: [{checkpoint: my-dev, prompt: ''}]", "prompt of case 1"),
    "resolution": ("cases: [{checkpoint: my-dev, resolution: large}]", "HEIGHTxWIDTH"),
    "odd resolution": ("cases: [{checkpoint: my-dev, resolution: 100}]", "case 1 of .*latent"),
    "yes is no number": ("cases: [{checkpoint: my-dev, batch_size: yes}]", "from 1 to"),
    "no steps": ("cases: [{checkpoint: my-dev, num_inference_steps: 0}]", "from 1 to"),
    "nan": ("cases: [{checkpoint: my-dev, guidance_scale: .nan}]", "guidance_scale of case 1"),
    "guidance of schnell": (
        "cases: [{checkpoint: my-schnell, guidance_scale: 2}]",
        "guidance_scale has no effect",
    ),
    "unknown optimization": (
        "cases: [{checkpoint: my-dev, optimizations: [fast]}]",
        "case 1 of .*: unknown optimization",
    ),
    "incompatible": (
        "cases: [{checkpoint: my-dev, optimizations: [compile, regional]}]",
        "incompatible optimizations",
    ),
    "not on this machine": (
        "cases: [{checkpoint: my-dev, optimizations: [fp8_per_row]}]",
        "incompatible optimizations: fp8_per_row",
    ),
    "unknown preset": ("cases: [{checkpoint: my-dev, preset: fast}]", "default, lossless, eager"),
    "both": (
        "cases: [{checkpoint: my-dev, preset: eager, optimizations: []}]",
        "both optimizations and a preset",
    ),
    "tolerance in per cent": (
        "cases: [{checkpoint: my-dev, tolerances: {step_ms: 5}}]",
        "a fraction between 0 and 1",
    ),
    "tolerance of nothing": (
        "cases: [{checkpoint: my-dev, tolerances: {step: 0.05}}]",
        "got:     step\n.*e2e_s, step_ms",
    ),
    "bound of nothing": (
        "cases: [{checkpoint: my-dev, quality: {psnr: 30}}]",
        "got:     psnr\n.*psnr_db",
    ),
    "bound of nan": (
        "cases: [{checkpoint: my-dev, quality: {psnr_db: .nan}}]",
        "psnr_db in quality",
    ),
    "several LoRAs": (
        "cases: [{checkpoint: my-dev, lora: [{path: a}]}]",
        "lora of case 1.*no mapp",
    ),
    "the same case": (
        "cases: [{checkpoint: my-dev, preset: eager}, {checkpoint: ./my-dev, optimizations: []}]",
        "case 2 of .* is there already: case 1",
    ),
    "a LoRA that is not there": (
        "cases: [{checkpoint: my-dev, lora: {path: ./style.safetensors}}]",
        "case 1 of .*: no such LoRA",
    ),
    "scale of a LoRA": (
        "cases: [{checkpoint: my-dev, lora: {path: a, scale: high}}]",
        "scale of lora of case 1",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_in_the_file_is_an_error_that_names_it(folder, mistake):
    text, problem = REFUSED[mistake]
    if text is None:
        with pytest.raises(FluxFastError, match=problem):
            planned_own_cases(folder / "nothing.yaml", "smoke", CPU, METRICS)
        return
    with pytest.raises(FluxFastError, match=f"(?s){problem}"):
        planned(folder, text)


def test_the_baseline_lies_alongside_the_file_and_is_none_of_the_projects(tmp_path):
    cases = tmp_path / "my-cases.yaml"
    empty = own_baseline(cases, "auto", H200)
    assert empty.path == tmp_path / "my-cases.nvidia-h200.json" and not empty.results
    write_baseline(empty.accept([process()]))
    assert len(own_baseline(cases, "h200", H200).results) == 1
    empty.path.rename(tmp_path / "my-cases.nvidia-h100-80gb-hbm3.json")
    with pytest.raises(FluxFastError, match="of another machine"):
        own_baseline(cases, "auto", H100)
    with pytest.raises(FluxFastError, match="not the GPU that --gpu names"):
        own_baseline(cases, "h100", H200)
    for folder in (None, tmp_path):
        at = (folder or shipped_baselines()) / "my-cases.yaml"
        with pytest.raises(FluxFastError, match="no baseline among the project's"):
            own_baseline(at, "auto", H200, folder)
    assert "my-cases" not in str(known_baselines()) and baseline_for("auto", H200).results


def test_a_tolerance_of_a_case_decides_its_verdict(tmp_path):
    case_id = process().case.id
    accepted = own_baseline(tmp_path / "c.yaml", "auto", H200).accept(processes(count=3))
    slower = [process(103.0)]
    assert accepted.judge(slower).outcome is Outcome.SLOWER
    tolerant = replace(accepted, tolerances={case_id: {"step_ms": 0.2, "e2e_s": 0.2}})
    verdict = tolerant.judge(slower)
    assert verdict.outcome is Outcome.SAME
    assert {c.metric.name: c.tolerance for c in verdict.changes}["step_ms"] == 0.2


def test_json_is_no_case_unless_it_has_its_types():
    good = process().case.to_json()
    assert Case.from_json(json.loads(json.dumps(good)), "").to_json() == good
    for change in ({"height": "1024"}, {"model": None}, {"optimizations": "bf16"}, {"more": 1}):
        with pytest.raises(FluxFastError, match="description of a case"):
            Case.from_json(good | change, "")


def test_results_of_own_cases_are_accepted_into_their_own_baseline_only(tmp_path, capsys):
    cases = tmp_path / "my-cases.yaml"
    cases.touch()
    own = replace(process().case, weights="my_dev_0a1b2c")
    folders = [
        write_result(tmp_path / str(n), replace(one, case=own, canaries=CANARIES)).parent
        for n, one in enumerate(processes(count=3))
    ]
    words = ["baseline", "accept", *map(str, folders)]
    assert main([*words, "--gpu", "h200"]) == 2
    assert "do not belong to the cases of this baseline" in capsys.readouterr().err
    assert main([*words, "--cases", str(tmp_path / "your-cases.yaml")]) == 2
    assert main([*words, "--cases", str(cases)]) == 0
    assert list(own_baseline(cases, "auto", H200).results) == [own.id]
    write_result(tmp_path / "other", process())
    assert main(["baseline", "accept", str(tmp_path / "other"), "--cases", str(cases)]) == 2
    assert "--cases FILE" in reproduction_command(own, "h200")
