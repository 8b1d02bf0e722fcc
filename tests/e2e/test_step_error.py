"""The step error detects small faults, raises no alarm without one, and defines lossless."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.cli.main import main
from fluxfast.hardware import detect
from fluxfast.models.weights import resolve
from fluxfast.optimizations.presets import preset_names
from fluxfast.pipeline.build import build
from fluxfast.profiling.evidence import cached_steps
from fluxfast.quality.budget import violations
from fluxfast.quality.prompts import prompts_for
from fluxfast.quality.step_error import (
    Difference,
    check_lossless,
    check_lossy,
    differences,
    named_outputs,
    step_quality,
)
from fluxfast.quality.step_reference import (
    MeasuredSteps,
    check_definition,
    lossy_part,
    record_references,
    why_not_forced,
)
from fluxfast.quality.trajectory import Outputs, replay
from tests.support.pages import commands
from tests.support.sabotage.steps import STEP_SABOTAGES, UNMODIFIED_RUNS, StepBenches


@pytest.fixture(scope="module")
def benches():
    with ExitStack() as stack, torch.no_grad():
        yield StepBenches(stack)


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", STEP_SABOTAGES, ids=lambda s: s.name)
def test_a_small_fault_is_detected(sabotage, benches):
    optimizations = sabotage.optimizations(benches.hardware)
    if optimizations is None:
        pytest.skip("a CPU does not run the code with this fault")
    bench = benches.of(optimizations)
    with torch.no_grad(), sabotage.fault(bench.built):
        seen = bench.seen(bench.measured())
    assert all(seen[gate] for gate in sabotage.gates(benches.hardware)), seen


@pytest.mark.slow
def test_unmodified_runs_repeat_bit_for_bit_and_raise_no_alarm(benches):
    bench = benches.of(())
    right = named_outputs(bench.right)
    for _ in range(UNMODIFIED_RUNS):
        measured = bench.measured()
        assert not any(bench.seen(measured).values())
        again = named_outputs(measured.outputs)
        assert all(torch.equal(again[name], output) for name, output in right.items())


@pytest.mark.slow
@pytest.mark.compile
def test_the_compiled_lossless_preset_meets_the_definition_in_bfloat16(benches):
    """Its error differs from eager's, and is no larger: the compiler rounds less often.

    The compiler's flags choose among kernels by their times, which takes as long again.
    """
    names = preset_names("lossless", benches.situation, enable=["bf16"], disable=["inductor_flags"])
    bench = benches.of(names)
    measured = bench.measured()
    assert not check_definition([measured])
    assert 0 < measured.quality.figure("step_error") < 0.02
    assert max(measured.quality.values["error_ratio"]) > 0.5


@pytest.mark.slow
def test_a_cached_step_has_an_error_of_its_own():
    hardware = detect("cpu")
    checkpoint = resolve("dev", "mini", hardware)
    situation = situation_of(checkpoint, hardware, height=128, width=128)
    prompts = prompts_for(checkpoint, 1, 128, 128)
    with build(checkpoint, planned_case((), checkpoint, situation).plan) as eager:
        (reference,) = record_references(eager, [(situation.request, prompts)])
    planned = planned_case(("dbcache",), checkpoint, situation)
    with build(checkpoint, planned.plan) as built:
        outputs = replay(built.pipeline, planned.plan, reference.trajectory)
        cached = cached_steps(built)
    measured = MeasuredSteps(outputs=outputs, reference=reference, is_lossy=True)
    errors = measured.quality.values["step_error"]
    assert len(errors) == situation.request.num_inference_steps
    assert sum(error > 1e-5 for error in errors) == cached > 0
    shorter = replace(situation, request=replace(situation.request, num_inference_steps=20))
    other = planned_case(("dbcache",), checkpoint, shorter).plan
    assert "20 steps" in why_not_forced(other, reference)
    assert lossy_part(planned.plan).names == planned.plan.names


@pytest.mark.slow
def test_the_error_profile_has_the_layers_of_the_quantization(capsys):
    (command,) = commands("smaller")  # as the page has it
    _, *arguments = command.replace("128x128-b1-s4", "64x64-b1-s1").split()
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    errors = [layer["step_error"] for layer in found["layers"]]
    assert found["quantization"] == "int8" and len(errors) == 37
    assert errors == sorted(errors, reverse=True) and errors[0] < found["step_error"]
    assert found["step_error"] == pytest.approx(math.hypot(*errors), rel=0.5)
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert all(layer["eager_ms"] > 0 < layer["quantized_ms"] for layer in found["layers"])


def test_an_error_profile_needs_a_quantization(capsys):
    assert main(["profile", "--error", "schnell-mini-64x64-b1-s1-sdpa"]) != 0
    assert "no quantized layers" in capsys.readouterr().err


def _outputs(*errors):
    """Return outputs with these errors in the steps 0, 9, 18, …; the other networks are right."""
    right = torch.ones(1, 64)
    signs = torch.tensor([1.0, -1.0]).repeat(1, 32)  # no bias
    steps = {9 * i: right + signs * error for i, error in enumerate(errors)}
    return Outputs(steps=steps, prompt=(right, right), decoded=right)


def test_a_trajectory_may_have_more_steps_than_are_compared():
    right = _outputs(0, 0, 0, 0)
    between = {index: torch.zeros(1, 64) for index in range(28) if index % 9}
    eager = replace(_outputs(0.01, 0.01, 0.01, 0.01), steps=between | _outputs(*[0.01] * 4).steps)
    assert set(differences(eager, right)) == set(differences(right, right))
    rounding = differences(eager, right)
    assert not check_lossless([(differences(_outputs(*[0.012] * 4), right), rounding)])
    (problem,) = check_lossless([(differences(_outputs(*[0.013] * 4), right), rounding)])
    assert problem.startswith("transformer: error 0.013") and "1.30 times" in problem


def test_a_bias_is_one_that_all_batches_share():
    right = _outputs(0, 0, 0, 0)
    off = {by: differences(replace(right, decoded=right.decoded + by), right) for by in (-1, 0, 1)}
    rounding = off[1] | {"decoder": replace(off[1]["decoder"], bias=0.1)}
    (problem,) = check_lossless([(off[-1], rounding)] * 3)
    assert problem.startswith("decoder: the mean error is 1.00 of")
    assert not check_lossless([(off[-1], rounding), (off[1], rounding)])


def test_a_lossy_error_is_held_to_its_mean_because_a_single_step_scatters():
    right = _outputs(0, 0, 0, 0)

    def found(*errors):
        return differences(_outputs(*errors), right)

    alone = found(0.10, 0.10, 0.10, 0.10)
    one_step_scatters = found(0.10, 0.10, 0.14, 0.09)
    assert not check_lossy([(one_step_scatters, alone)])
    (problem,) = check_lossy([(found(0.12, 0.12, 0.12, 0.12), alone)])
    assert "mean of 1 batches" in problem and "1.20 times" in problem
    of_one_batch = [(alone, alone)] * 4 + [(found(0.13, 0.13, 0.13, 0.13), alone)]
    (problem,) = check_lossy(of_one_batch)  # as a fault of one size would be
    assert "batch 4" in problem and "at most 1.25" in problem
    nothing = found(0, 0, 0, 0)
    assert not check_lossy([(nothing, nothing)])
    assert check_lossy([(alone, nothing)])


def test_a_difference_is_that_of_the_worst_image():
    reference = torch.ones(2, 4)
    output = torch.tensor([[1.0, 1, 1, 1], [1.1, 1.1, 1.1, 1.1]])
    found = Difference.between(output, reference)
    assert found.relative == pytest.approx(0.1)
    assert found.mean == pytest.approx(0.05)
    assert found.bias == pytest.approx(0.5**0.5)  # one of two images, all with one sign
    assert Difference.between(reference, reference).bias == 0


def test_values_that_are_not_finite_agree_or_the_difference_is_no_number():
    reference = torch.tensor([[1.0, float("nan"), float("inf")]])
    assert Difference.between(reference, reference).relative == 0
    for wrong in ([1.0, 0.0, float("inf")], [1.0, float("nan"), float("-inf")], [1.0] * 3):
        relative = Difference.between(torch.tensor([wrong]), reference).relative
        assert not relative <= 1  # NaN or infinite: no bound allows it
    finite = torch.ones(1, 3)
    assert not Difference.between(reference, finite).relative <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_network_that_is_not_finite_is_not_hidden_by_another(value):
    """`max` of 0.01 and NaN is 0.01, so CLIP's outputs were not seen beside T5's."""
    right = torch.ones(1, 4)
    right = Outputs(steps={0: right}, prompt=(right, right), decoded=right)
    wrong = replace(right, prompt=(right.decoded, torch.full((1, 4), value)))
    quality = step_quality(differences(wrong, right))
    assert not quality.figure("prompt_error") <= 1
    assert violations(quality, {"prompt_error": 1.0, "decoder_error": 1.0})
