"""Combinations of optimizations: defaults of each machine, and errors for what is unsupported."""

import dataclasses

import pytest

from benchmarks.fusions import step_cases
from fluxfast.errors import PlanError
from fluxfast.models.spec import DEV, KONTEXT, SCHNELL
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.cache_config import cache_config_of
from fluxfast.optimizations.registry import default_names, optimizations, plan, why_invalid
from tests.support.machines import A100, B200, CPU, H100, H200, L20, MI250, MI300X, situation


def test_optimizations_are_found_in_the_order_of_their_axes():
    axes = [list(Axis).index(o.axis) for o in optimizations().values()]
    assert axes == sorted(axes)
    assert set(optimizations()) >= {  # the guide adds one
        "bf16",
        "fused_projections",
        "sdpa",
        "cudnn",
        "fa3",
        "fa3_fp8",
        "aiter_fp8",
        "channels_last",
        "dbcache",
        "fp8_per_row",
        "fp8_per_tensor",
        "int8",
        "fused_norms",
        "fused_rotary",
        "fused_gelu",
        "gelu_epilogue",
        "rotary_epilogue",
        "modulation_table",
        "inductor_flags",
        "regional",
        "compile",
        "export_aoti",
        "fused_vae",
        "device_images",
        "fused_encoder",
        "known_device",
        "cuda_graph",
    }


def test_a_plan_is_in_the_order_of_its_axes_whatever_the_request_order():
    names = ["regional", "fp8_per_row", "fa3_fp8", "fused_projections", "bf16"]
    assert plan(names, situation(H200)).names == tuple(reversed(names))


ON_NVIDIA = (
    "fused_norms fused_rotary fused_gelu modulation_table fused_vae device_images "
    "fused_encoder known_device cuda_graph"
)
EPILOGUES = {"fused_rotary": "rotary_epilogue", "fused_gelu": "gelu_epilogue"}
ON_HOPPER = " ".join(EPILOGUES.get(name, name) for name in ON_NVIDIA.split())
ON_AMD = "device_images known_device"


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        (CPU, "fused_projections channels_last inductor_flags regional"),
        (A100, "bf16 fused_projections cudnn int8 regional " + ON_NVIDIA),
        (L20, "bf16 fused_projections cudnn fp8_per_row regional " + ON_NVIDIA),
        (H100, "bf16 fused_projections fa3_fp8 fp8_per_row " + ON_HOPPER),
        (H200, "bf16 fused_projections fa3_fp8 fp8_per_row " + ON_HOPPER),
        (B200, "bf16 fused_projections cudnn fp8_per_row regional " + ON_NVIDIA),
        (MI300X, "bf16 fused_projections aiter_fp8 fp8_per_row regional " + ON_AMD),
        (MI250, "bf16 fused_projections int8 regional " + ON_AMD),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_defaults_of_each_machine(hardware, expected):
    assert default_names(situation(hardware)) == tuple(expected.split())


def test_without_its_package_the_next_best_default_is_chosen():
    packages = {name: "1" for name in H200.packages if name != "fa3-fwd"}
    bare = dataclasses.replace(H200, packages=packages)
    assert "cudnn" in default_names(situation(bare))


def test_a_choice_replaces_conflicting_defaults():
    chosen = {Axis.DTYPE: None}
    assert default_names(situation(H200), chosen)[:2] == ("fused_projections", "fused_vae")
    asked = default_names(situation(H200), {Axis.CACHE: "dbcache"})
    assert "dbcache" in asked and "cuda_graph" in asked
    chosen = {Axis.COMPILE: None}
    assert "inductor_flags" not in default_names(situation(CPU), chosen)


def test_leaving_one_out_also_leaves_out_those_that_require_it():
    names = default_names(situation(CPU), {Axis.COMPILE: None})
    assert names == ("fused_projections", "channels_last")


def test_the_next_best_default_replaces_one_that_conflicts_with_a_choice():
    for axis, choice in ((Axis.QUANTIZATION, "int8"), (Axis.NORMS, None)):
        names = default_names(situation(H200), {axis: choice})
        assert EPILOGUES.keys() <= set(names) and not {*EPILOGUES.values()} & {*names}
    names = default_names(situation(H200), {Axis.PROJECTIONS: None})
    assert "fused_gelu" not in names and "fused_norms" not in names


CACHE = {"Fn_compute_blocks": 1}
FUSIONS = ("fused_norms", "fused_rotary", "fused_gelu", "modulation_table")
AROUND = ("fused_vae", "device_images", "fused_encoder", "known_device", "cuda_graph")


@pytest.mark.parametrize("hardware", [A100, L20, H200, B200], ids=lambda h: h.name)
def test_the_compiler_is_applied_last(hardware):
    asked = {"regional", *AROUND, *FUSIONS, *default_names(situation(hardware))}
    asked -= {*EPILOGUES.values()}
    found = plan(asked, situation(hardware))
    assert found.names[found.names.index("regional") :] == ("regional", *FUSIONS, *AROUND)
    applied = [o.name for o in found.in_order_of_application]
    assert applied[-1] == "regional" and sorted(applied) == sorted(asked)


@pytest.mark.parametrize(
    ("names", "given", "reason"),
    [
        ("dbcache", situation(CPU, SCHNELL), "no steps to reuse; use dev or kontext"),
        ("dbcache export_aoti", situation(CPU), "cannot decide from step to step"),
        ("fp8_per_row bf16", situation(A100), "compute capability 8.9 or an AMD MI300; use int8"),
        ("fp8_per_tensor", situation(MI250), "compute capability 8.9 or an AMD MI300; use int8"),
        ("fp8_per_row", situation(H200), "requires bf16: torchao's scale per row"),
        ("fa3_fp8 bf16", situation(L20), "requires a Hopper GPU"),
        ("fa3 bf16", situation(B200), "requires a Hopper GPU"),
        ("fa3 bf16", situation(MI300X), "aiter_fp8 on AMD"),
        ("aiter_fp8 bf16", situation(H200), "requires an AMD MI300 under ROCm; use fa3_fp8"),
        ("cudnn bf16", situation(CPU), "requires an NVIDIA GPU"),
        (
            "inductor_flags",
            situation(CPU),
            "requires one of compile, export_aoti, regional",
        ),
        ("sdpa sdpa", situation(CPU), "sdpa is given twice"),
        ("sdpa cudnn bf16", situation(H200), "cudnn and sdpa exclude each other"),
        (
            "dbcache",
            situation(CPU, cache_config=cache_config_of({"steps_computation_mask": [1, 0, 1]})),
            "configured for 3 steps, the request has 28; make them equal",
        ),
        (
            "dbcache",
            situation(CPU, cache_config=cache_config_of({"num_inference_steps": 50})),
            "configured for 50 steps, the request has 28",
        ),
        ("dbcache", situation(CPU, KONTEXT, num_inference_steps=6), "requires 8 steps or more"),
        ("fused_gelu", situation(MI300X), "for NVIDIA GPUs"),
        ("fused_gelu fused_projections", situation(H200), "attend through an operator"),
        ("fused_rotary sdpa", situation(H200), "from one GEMM"),
        ("modulation_table", situation(H200), "requires fused_norms"),
        ("gelu_epilogue", situation(L20), "use fused_gelu on other NVIDIA GPUs"),
        ("rotary_epilogue", situation(L20), "use fused_rotary on other NVIDIA GPUs"),
        ("rotary_epilogue fused_norms fa3", situation(H200), "requires bf16: its GEMM computes"),
        ("gelu_epilogue int8", situation(H200), "conflicts with int8: its GEMM computes bfloat16"),
        (
            "gelu_epilogue fused_gelu",
            situation(H200),
            "fused_gelu and gelu_epilogue exclude each other: a plan has one choice of activation",
        ),
        ("fused_encoder", situation(CPU), "CUDA graphs are not supported elsewhere"),
    ],
)
def test_an_unsupported_combination_is_an_error_with_the_reason(names, given, reason):
    with pytest.raises(PlanError, match=reason.replace(".", r"\.")):
        plan(names.split(), given)


def test_an_unknown_optimization_is_an_error_that_lists_the_known_ones():
    with pytest.raises(PlanError, match="fused_projections"):
        plan(["flash"], situation(CPU))


def test_a_missing_package_is_an_error_with_its_install_command():
    bare = dataclasses.replace(H200, packages={"torch": "1", "torchao": "1"})
    with pytest.raises(
        PlanError, match="fa3-fwd is not installed; install it with: pip install fa3-fwd"
    ):
        plan(["bf16", "fa3"], situation(bare))


def test_the_fusion_study_measures_supported_combinations_only():
    for name, (model, names, _) in step_cases(False, H200).items():
        given = situation(H200, {"dev": DEV, "schnell": SCHNELL, "kontext": KONTEXT}[model])
        assert why_invalid(names, given) is None, name


def test_one_error_lists_every_problem():
    with pytest.raises(PlanError) as error:
        plan(["aiter_fp8", "fp8_per_row", "inductor_flags"], situation(A100))
    assert all(name in str(error.value) for name in ("ROCm", "use int8", "without a compiler"))
