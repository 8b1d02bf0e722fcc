"""Kernel profiles of a step: read and compare traces, and compute the roofline floor."""

import gzip
import json

import pytest

from fluxfast.bench.cases.case import Case
from fluxfast.cli.main import main
from fluxfast.cli.roofline import text_of
from fluxfast.errors import FluxFastError
from fluxfast.files import write_atomically
from fluxfast.models.architecture import PUBLISHED
from fluxfast.models.spec import DEV, KONTEXT, SCHNELL, default_request
from fluxfast.optimizations.facts import KernelCategory
from fluxfast.profiling.kernel_profile import category_of, difference, read_profile
from fluxfast.profiling.roofline import (
    Ceilings,
    by_category,
    floor_ms,
    shape_of,
    step_work,
)

TINY = "dev-mini-32x32-b1-s1-eager"


def event(name, category, begin_us, length_us, tid=1, **args):
    times = {"ts": begin_us, "dur": length_us}
    return {"ph": "X", "name": name, "cat": category, **times, "tid": tid, "args": args}


def launched(launch_us, name, category, begin_us, length_us):
    """Return a kernel and the host's call that launched it."""
    number = begin_us + 1
    return (
        event("cudaLaunchKernel", "cuda_runtime", launch_us, 5, correlation=number),
        event(name, category, begin_us, length_us, correlation=number),
    )


def trace(path, *events):
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "wt") as file:
        json.dump({"traceEvents": [*events, {"ph": "M", "name": "process_name"}]}, file)
    return path


STEPS = [event("denoising_step", "user_annotation", begin, 100) for begin in (0, 100)]
GEMM, COPY = "nvjet_sm90_qqtst_128x256", "Memcpy DtoD (Device -> Device)"


def test_kernels_of_a_gpu_are_averaged_over_steps(tmp_path):
    """Kernels run after the host has gone on to the next step or to the decoder."""
    path = trace(
        tmp_path / "t.json.gz",
        *STEPS,
        *launched(10, GEMM, "kernel", 50, 400),
        *launched(20, COPY, "gpu_memcpy", 350, 200),  # 100 µs of it overlap with the GEMM
        *launched(110, GEMM, "kernel", 1000, 600),
        *launched(250, "vae_conv", "kernel", 1700, 900),  # after the steps
        event("aten::mm", "cpu_op", 0, 90),
    )
    profile = read_profile(path)
    assert (profile.steps, profile.step_ms) == (2, (1600 - 50) / 2 / 1e3)
    assert [(k.name, k.runs, k.step_ms) for k in profile.kernels] == [
        (GEMM, 1.0, 0.5),
        (COPY, 0.5, 0.1),
    ]
    assert profile.idle_ms == pytest.approx((1550 - 500 - 600) / 2 / 1e3)
    assert profile.by_category[KernelCategory.GEMM] == 0.5
    assert profile.by_category[KernelCategory.IDLE] == profile.idle_ms


def test_operators_of_a_cpu_count_their_self_time(tmp_path):
    path = trace(
        tmp_path / "t.json",
        event("denoising_step", "user_annotation", 0, 1000),
        event("aten::linear", "cpu_op", 0, 500),
        event("aten::addmm", "cpu_op", 100, 300),
        event("aten::copy_", "cpu_op", 150, 50),
        event("aten::copy_", "cpu_op", 450, 100, tid=2),
    )
    times = {k.name: k.step_ms for k in read_profile(path).kernels}
    assert times == {"aten::linear": 0.2, "aten::addmm": 0.25, "aten::copy_": pytest.approx(0.15)}


def test_the_kernels_with_the_largest_change_are_first(tmp_path):
    before = trace(tmp_path / "a.json", *STEPS, *launched(0, GEMM, "kernel", 0, 400))
    after = trace(
        tmp_path / "b.json",
        *STEPS,
        *launched(0, GEMM, "kernel", 0, 420),
        *launched(0, "triton_red_fused_amax", "kernel", 500, 300),
    )
    changes = difference(read_profile(before), read_profile(after))
    assert [(c.name, round(c.change_ms, 3)) for c in changes] == [
        ("triton_red_fused_amax", 0.15),
        ("idle", 0.04),
        (GEMM, 0.01),
    ]


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("nvjet_sm90_qqtst_128x256_64x6_2x1_v_bz_coopA_scaleAB_TNT", KernelCategory.GEMM),
        ("aten::_scaled_mm", KernelCategory.GEMM),
        (
            "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90",
            KernelCategory.ATTENTION,
        ),
        ("fluxfast::sdpa", KernelCategory.ATTENTION),
        ("fluxfast_residual_norm", KernelCategory.NORM),
        ("fluxfast_gelu_join", KernelCategory.QUANTIZE),
        ("fluxfast_gelu_product", KernelCategory.GEMM),
        ("fluxfast::gelu_product_join_fp8", KernelCategory.GEMM),
        ("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_gelubias_TNN", KernelCategory.GEMM),
        ("fluxfast_qkv_rotary", KernelCategory.NORM),
        ("fluxfast_qkv_product", KernelCategory.GEMM),
        ("fluxfast::qkv_product", KernelCategory.GEMM),
        ("fluxfast_qkv_product_and_gelu", KernelCategory.GEMM),
        ("fluxfast::fa3_into", KernelCategory.ATTENTION),
        ("triton_red_fused__to_copy_abs_amax_cat_gelu_3", KernelCategory.QUANTIZE),
        ("Memset (Device)", KernelCategory.COPY),
        ("aten::silu", KernelCategory.OTHER),
    ],
)
def test_a_kernel_has_one_category(name, category):
    assert category_of(name) is category


def test_a_file_that_is_no_trace_is_an_error(tmp_path, capsys):
    (tmp_path / "broken.json").write_text('{"traceEvents": [')
    trace(tmp_path / "empty.json", event(GEMM, "kernel", 0, 400))
    for name in ("broken.json", "empty.json", "absent.json"):
        with pytest.raises(FluxFastError, match="trace"):
            read_profile(tmp_path / name)
    assert main(["profile"]) == 2 and "CASE, or --diff A B" in capsys.readouterr().err
    assert main(["profile", "dev-best"]) == 2 and "no case id" in capsys.readouterr().err


@pytest.mark.slow
def test_a_case_is_profiled_and_its_trace_compared_with_itself(tmp_path, capsys):
    path = tmp_path / "t.json.gz"
    arguments = ["profile", TINY, "--device", "cpu", "--trace-file", str(path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "step:" in printed
        and "ms/step" in printed
        and "GEMM" in printed
        and "aten::addmm" in printed
    )
    assert main(["profile", "--diff", str(path), str(path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["before_step_ms"] == figures["after_step_ms"] > 0
    assert len(figures["kernels"]) > 5 and all(k["change_ms"] == 0 for k in figures["kernels"])


def test_a_case_id_round_trips():
    names = ("dev-synthetic-1024x768-b2-s28-bf16+fa3_fp8", TINY)
    assert [Case.from_id(name).id for name in names] == list(names)


def work(model, **precision):
    shape = shape_of(PUBLISHED, model, default_request(model, side=1024))
    return shape, step_work(shape, **precision)


def test_the_operations_of_a_step_are_those_of_its_weights():
    """Every block has 12 · 3072² weights per token; a double block has them once per stream."""
    shape, kernels = work(DEV, fp8=True, fp8_attention=True)
    gemms = [k for k in kernels if k.category == "GEMM"]
    weights = sum(k.count * k.operations for k in gemms) / 2 / shape.tokens
    assert weights == (19 + 38) * 12 * 3072**2
    attention = next(k for k in kernels if k.category == "attention")
    assert attention.count * attention.operations == pytest.approx(14.87e12, rel=1e-3)


@pytest.mark.parametrize(("model", "tokens"), [(DEV, 4608), (SCHNELL, 4352), (KONTEXT, 8704)])
def test_a_floor_is_the_sum_of_the_longer_times(model, tokens):
    shape, kernels = work(model, fp8=False, fp8_attention=False)
    assert shape.tokens == tokens
    slow_memory = Ceilings(gemm_tflops=1e9, attention_tflops=1e9, copy_tb_s=1.0)
    moved_ms = sum(k.count * k.bytes for k in kernels) / 1e9
    assert floor_ms(kernels, slow_memory) == pytest.approx(moved_ms)
    ceilings = Ceilings(gemm_tflops=700, attention_tflops=649, copy_tb_s=4.29)
    assert sum(by_category(kernels, ceilings).values()) == pytest.approx(
        floor_ms(kernels, ceilings)
    )


def test_fp8_moves_fewer_bytes_and_does_the_same_work():
    _, exact = work(DEV, fp8=False, fp8_attention=False)
    _, fp8 = work(DEV, fp8=True, fp8_attention=True)
    assert sum(k.count * k.operations for k in fp8) == sum(k.count * k.operations for k in exact)
    assert sum(k.count * k.bytes for k in fp8) < sum(k.count * k.bytes for k in exact)


def test_the_roofline_of_a_case_has_ceilings_floor_and_gap(capsys):
    assert main(["roofline", TINY, "--device", "cpu", "--time", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert all(value > 0 for value in figures["ceilings"].values())
    assert figures["gap_ms"] == figures["step_ms"] - figures["floor_ms"]
    assert figures["floor_ms"] == pytest.approx(sum(figures["floor_by_category_ms"].values()))
    printed = text_of(figures)
    assert "mini model" in printed and "indicative only" in printed and "above the floor" in printed
    assert "--time" in text_of(figures | {"step_ms": None})


def test_the_roofline_is_written_next_to_the_result_of_a_profiled_case(tmp_path, capsys):
    command = ["roofline", TINY, "--device", "cpu", "--results", str(tmp_path)]
    assert main(command) == 2
    assert "no kernel times of this case" in capsys.readouterr().err
    write_atomically(tmp_path / "kernels" / f"{TINY}.json", '{"GEMM": 50.0, "norm": 1.0}')
    assert main(command) == 0
    written = json.loads((tmp_path / "roofline" / f"{TINY}.json").read_text())
    (gemms,) = written["kernels"]  # no attention was profiled
    assert gemms["name"] == "GEMM" and gemms["ms"] == 50.0
    speed = gemms["tflop"] / gemms["ms"] * 1e3
    assert 0 < speed < 10 and all(ceiling > 0 for ceiling in written["ceilings"].values())
