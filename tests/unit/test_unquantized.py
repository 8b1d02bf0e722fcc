"""Layers that a quantization leaves unquantized: patterns, groups, the proof, what refuses them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from fluxfast.bench.cases.own import planned_own_cases
from fluxfast.cli.main import main
from fluxfast.errors import FluxFastError
from fluxfast.models.architecture import MINI, PUBLISHED
from fluxfast.models.configuration import count_blocks
from fluxfast.models.weights import resolve
from fluxfast.optimizations.compilation import _manifest as manifest
from fluxfast.optimizations.unquantized import check_quantizes, groups, unquantized_layers
from tests.support.machines import CPU, L20, situation
from tests.support.pipelines import built

DEV = count_blocks(PUBLISHED.transformer)
SCHNELL = resolve("mini-schnell", "auto", CPU).block_counts
INT8 = ("fused_projections", "int8", "sdpa")


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["transformer_blocks.0.ff.net.2"], {"transformer_blocks.0.ff.net.2"}),
        (
            ["single_transformer_blocks.37.attn.to_qkv"],
            {
                f"single_transformer_blocks.37.{name}"
                for name in ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_qkv", "proj_mlp")
            },
        ),
        (["*.ff.net.2", "transformer_blocks.?.ff.net.2"], 19),  # not those of the text
        (["transformer_blocks.1.*"], 8 + 6),
        (["*.proj_mlp"], 38 * 5),
        ([], 0),
    ],
)
def test_a_pattern_names_layers_and_those_that_stay_with_them(patterns, names):
    found = unquantized_layers(patterns, DEV)
    assert len(found) == names if isinstance(names, int) else found == names


@pytest.mark.parametrize(
    ("patterns", "got"),
    [
        (["*.ff.net.2", "transformer_blocks.19.*"], "transformer_blocks.19.*"),
        (["*.norm1.linear"], "norm1"),  # a modulation is never quantized
        (["proj_out"], "proj_out"),  # the transformer's own last layer
        (["*"], "got:     \\*"),
    ],
)
def test_a_pattern_that_has_no_effect_or_leaves_nothing_is_an_error(patterns, got):
    with pytest.raises(FluxFastError, match=f"(?s)unquantized.*{got}.*allowed.*remedy"):
        unquantized_layers(patterns, DEV)


def test_layers_are_left_unquantized_only_where_others_are_quantized():
    left_out = unquantized_layers(["*.ff.net.2"], DEV)
    check_quantizes([("bf16",), ("bf16", "fp8_per_row")], left_out)
    check_quantizes([("bf16",)], frozenset())
    with pytest.raises(FluxFastError, match="no optimization quantizes the others"):
        check_quantizes([(), ("bf16", "sdpa")], left_out)


@pytest.mark.parametrize("projections", [(), ("fused_projections",)], ids=["separate", "fused"])
def test_the_groups_have_every_layer_that_is_quantized(projections):
    from fluxfast.optimizations.precision._torchao import is_quantizable

    with built(*projections, model="dev") as pipeline:
        modules = pipeline.pipeline.transformer.named_modules()
        quantized = {name for name, module in modules if is_quantizable(module, name)}
    known = [set(group) for group in groups(count_blocks(MINI.transformer))]
    assert quantized and quantized <= set.union(*known)
    assert all(group & quantized for group in known)


def test_packages_of_other_layers_are_in_other_folders():
    def described(*patterns):
        left_out = unquantized_layers(patterns, DEV)
        return manifest.described(replace(situation(CPU), unquantized=left_out), INT8)

    one, same = described("transformer_blocks.0.attn.to_q"), described("*.0.attn.add_k_proj")
    assert one == same  # they stay together
    folders = [manifest.folder_name(d) for d in (described(), one, described("*.ff.net.2"))]
    assert len(set(folders)) == 3 and folders[0].endswith("+".join(INT8))


def proved(quantized, unquantized):
    """Return the proof for a transformer whose layers `quantized` are in int8."""
    import torch
    from torch import nn
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    from fluxfast.optimizations.precision._torchao import INT8_GEMMS, quantization_proof

    transformer = nn.Module()
    transformer.transformer_blocks = nn.ModuleList(
        nn.ModuleDict({"to_out": nn.Linear(16, 16), "norm": nn.Linear(16, 16)}) for _ in range(3)
    )
    quantize_(
        transformer,
        Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
        filter_fn=lambda module, name: name in quantized,
    )
    asked = replace(situation(CPU), unquantized=frozenset(unquantized))
    evidence = SimpleNamespace(
        pipeline=SimpleNamespace(transformer=transformer),
        plan=SimpleNamespace(situation=asked),
        operators_matching=lambda *names: ["aten::_int_mm"],
    )
    return quantization_proof(evidence, torch.int8, INT8_GEMMS, per_row=True)


A, B, C = (f"transformer_blocks.{index}.to_out" for index in range(3))


@pytest.mark.parametrize(
    ("quantized", "unquantized", "is_active", "detail"),
    [
        ({A, B}, {C}, True, "2 of 2 block layers hold int8"),
        ({A, B}, set(), False, "2 of 3 block layers hold int8"),
        ({A}, {C}, False, "1 of 2 block layers"),
        ({A, B, C}, {C}, False, "1 other layers are quantized, too"),
        ({A, B, "transformer_blocks.0.norm"}, {C}, False, "1 other layers are quantized, too"),
    ],
)
def test_the_proof_is_of_exactly_the_layers_that_are_to_be_quantized(
    quantized, unquantized, is_active, detail
):
    proof = proved(quantized, unquantized)
    assert proof.is_active is is_active and detail in proof.detail
    assert ("1 are left unquantized" in proof.detail) is bool(unquantized)


def case_ids(folder, *entries):
    path = folder / "cases.yaml"
    path.write_text("cases:\n" + "".join(f"  - {{checkpoint: mini-dev, {e}}}\n" for e in entries))
    return [planned.case.id for planned in planned_own_cases(path, "smoke", L20, ())[0]]


def test_cases_of_other_layers_have_other_ids(tmp_path):
    entries = ("preset: default", "unquantized: '*.ff.net.2'", "unquantized: ['*.proj_out']")
    ids = case_ids(tmp_path, *entries)
    assert len(set(ids)) == 5  # the second and the third entry with an eager case of their own
    with pytest.raises(FluxFastError, match=r"case 1 of .*no optimization quantizes"):
        case_ids(tmp_path, "preset: lossless, unquantized: '*.proj_out'")
    with pytest.raises(FluxFastError, match=r"case 1 of .*matches no layer"):
        case_ids(tmp_path, "preset: default, unquantized: proj")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--quant", "int8", "--unquantized", "*.ff.net.9"], "matches no layer"),
        (["--unquantized", "*.proj_out"], "no optimization quantizes"),
    ],
)
def test_the_command_line_refuses_before_anything_is_loaded(arguments, problem, capsys):
    assert main(["generate", "--ckpt", "mini-schnell", "--device", "cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert problem in error and "loading" not in error


def test_the_command_line_leaves_layers_unquantized(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "fluxfast.cli.generate.finish", lambda images, built, console: seen.append(built)
    )
    size = ["--resolution", "32", "--num_inference_steps", "1", "--compile_export_mode", "disabled"]
    choice = ["--quant", "int8", "--unquantized", "*.proj_out", "--unquantized", "*.ff.net.2"]
    output = ["--output-file", str(tmp_path / "image.png")]
    model = ["--ckpt", "mini-schnell", "--device", "cpu"]
    assert main(["generate", *model, *size, *choice, *output]) == 0
    assert "unquantized: *.proj_out, *.ff.net.2" in capsys.readouterr().err
    (built,) = seen
    assert built.plan.situation.unquantized == unquantized_layers(
        ["*.proj_out", "*.ff.net.2"], SCHNELL
    )


def test_optimize_quantizes_the_other_layers_alone():
    """The error is between none and that of int8 throughout; a LoRA leaves no trace."""
    import torch

    import fluxfast
    from benchmarks.variants import VARIANTS, generate, loaded
    from fluxfast.models.lora.synthetic import synthetic_lora

    pipeline, text = loaded(VARIANTS[0]), VARIANTS[0]
    plain, lora = generate(pipeline, text), synthetic_lora(pipeline.transformer, 4)

    def error(unquantized):
        with fluxfast.optimize(
            pipeline,
            enable=["int8", "sdpa"],
            disable=["regional", "inductor_flags"],
            unquantized=unquantized,
        ) as fast:
            out = generate(fast, text)
            report = fast.report()
            fast.set_lora(lora)
            assert not torch.equal(generate(fast, text), out)
            fast.set_lora(None)
            assert torch.equal(generate(fast, text), out)
        assert report.is_as_requested, str(report)
        return float((out - plain).norm()), report.proofs["int8"].detail

    whole, _ = error([])
    some, detail = error(["*.to_out.0", "*.proj_out"])
    assert 0 < some < whole and "are left unquantized" in detail
    assert torch.equal(generate(pipeline, text), plain)
    with pytest.raises(FluxFastError, match="no optimization quantizes"):
        fluxfast.optimize(pipeline, preset="lossless", unquantized=["*.proj_out"])
