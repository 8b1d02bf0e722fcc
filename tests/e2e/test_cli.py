"""The command line: flux-fast's options, output for programs, and errors for people."""

import json

import pytest
from PIL import Image

from fluxfast.cli.main import main, parser
from fluxfast.cli.pipeline_options import planned_from

DRAW = ["--ckpt", "mini-dev", "--resolution", "32", "--num_inference_steps", "1"]
EAGER = [*DRAW, "--compile_export_mode", "disabled"]


def planned(*options):
    return planned_from(parser().parse_args(["generate", "--device", "cpu", *options])).plan.names


def test_flux_fasts_own_options_are_all_taken(tmp_path):
    cache, picture = tmp_path / "cache.yaml", tmp_path / "cat.png"
    cache.write_text("Fn_compute_blocks: 1")
    Image.new("RGB", (40, 20)).save(picture)
    options = [
        *("--ckpt", "black-forest-labs/FLUX.1-Kontext-dev", "--prompt", "a cat"),
        *("--image", str(picture), "--cache-dir", str(tmp_path), "--device", "cpu"),
        *("--num_inference_steps", "28", "--output-file", "cat.png", "--seed", "7"),
        *("--trace-file", "trace.json.gz", "--disable_bf16", "--compile_export_mode", "compile"),
        *("--disable_fused_projections", "--disable_channels_last", "--disable_fa3"),
        *("--disable_quant", "--disable_inductor_tuning_flags", "--cache_dit_config", str(cache)),
    ]
    for command in ("generate", "bench"):
        parsed = planned_from(parser().parse_args([command, *options]))
        assert parsed.plan.names == ("dbcache", "compile")
    assert "export_aoti" in planned(*DRAW, "--use-cached-model")


def test_each_optimization_is_switched_by_its_option():
    assert planned(*DRAW) == ("fused_projections", "channels_last", "inductor_flags", "regional")
    assert planned(*EAGER) == ("fused_projections", "channels_last")
    assert planned(*EAGER, "--disable_fused_projections") == ("channels_last",)
    assert planned(*EAGER, "--attention", "sdpa", "--quant", "int8")[1:] == (
        "sdpa",
        "channels_last",
        "int8",
    )


def test_any_optimization_is_switched_by_its_name():
    assert planned(*EAGER, "--enable", "sdpa", "--enable", "int8")[1:] == (
        "sdpa",
        "channels_last",
        "int8",
    )
    assert planned(*EAGER, "--disable", "channels_last") == ("fused_projections",)


def test_generate_draws_and_bench_times(tmp_path, capsys):
    picture = tmp_path / "deep.png"
    assert main(["generate", *EAGER, "--output-file", str(picture), "--batch_size", "2"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep-1.png", "deep-2.png"]
    capsys.readouterr()
    trace = tmp_path / "trace.json.gz"
    arguments = [
        "bench",
        *EAGER,
        "--output-file",
        str(picture),
        "--trace-file",
        str(trace),
        "--json",
    ]
    assert main(arguments) == 0
    output = capsys.readouterr()
    figures = json.loads(output.out)
    assert len(figures["e2e_s"]) == 10 and figures["stages"]["denoising step"]["median_ms"] > 0
    assert figures["case"] == "dev-mini-32x32-b1-s1-fused_projections+channels_last"
    assert trace.stat().st_size > 1000 and "s left" in output.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["generate", "--ckpt", "flux2"], "no such model or checkpoint"),
        (["generate", *EAGER, "--device", "cuda"], "PyTorch finds no GPU"),
        (["generate", *EAGER, "--attention", "fa3"], "needs a Hopper GPU"),
        (["generate", *EAGER, "--attention", "sdpa", "--disable_fa3"], "one option asks for what"),
        (["generate", *EAGER, "--enable", "sdpa", "--disable", "fa3"], "one option asks for what"),
        (["generate", *EAGER, "--quant", "int8", "--enable", "fp8_per_row"], "decide the same"),
        (["generate", *EAGER, "--enable", "fused_gelu"], "for NVIDIA GPUs"),
        (["generate", *EAGER, "--enable", "warp"], "unknown optimization"),
        (
            ["generate", "--ckpt", "mini-schnell", "--cache_dit_config", "none.yaml"],
            "cannot be read",
        ),
        (["generate", *EAGER, "--resolution", "100"], "multiple of 16"),
        (["generate", *EAGER, "--output-file", "picture.nothing"], "image cannot be written"),
        (["generate", *EAGER, "--output-file", "/nowhere/x.png"], "image cannot be written"),
        (["generate", *EAGER, "--image", "x.png"], "would have no effect"),
        (["generate", *EAGER, "--use-cached-model"], "would have no effect"),
        (["generate", *EAGER[2:], "--ckpt", "mini-kontext", "--image", "none.png"], "input image"),
        (["matrix", "--gpu", "h300"], "no baseline file of this name"),
        (["baseline", "accept", "nowhere"], "no results here"),
        (["baseline", "show", "--gpu", "h300"], "no baseline file of this name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_ends_with_what_to_do_and_status_2(
    arguments, told, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error and all(part in error for part in ("got:", "allowed:", "remedy:"))
    assert not list(tmp_path.iterdir())


def test_what_programs_read_is_json(capsys):
    for arguments in (
        ["matrix", "--gpu", "mi300x", "--json"],
        ["doctor", "--device", "cpu", "--json"],
        ["baseline", "show", "--gpu", "h200", "--json"],
    ):
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out)


def test_every_combination_is_listed_valid_or_with_the_reason(capsys):
    assert main(["matrix", "--gpu", "h200", "--matrix", "full", "--model", "dev", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    reasons = {tuple(r["optimizations"]): r["reason"] for r in rows if not r["valid"]}
    assert sum(r["valid"] for r in rows) > 500
    assert "step to step" in reasons[("dbcache", "export_aoti")]


def test_the_tables_for_people_fit_a_hundred_columns(capsys):
    for arguments in (
        ["matrix", "--gpu", "h200"],
        ["doctor"],
        ["baseline", "show", "--gpu", "h200"],
    ):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 5
        assert max(len(line) for line in lines if " " in line[:60]) <= 110


def test_ctrl_c_ends_with_130_and_a_word(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fluxfast.cli.doctor.run", interrupt)
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err
