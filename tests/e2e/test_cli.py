"""The command line: flux-fast's options, JSON output, and errors."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from fluxfast import __version__
from fluxfast.cli.doctor import optimization_rows
from fluxfast.cli.main import main, parser
from fluxfast.cli.pipeline_options import planned_from
from fluxfast.models.spec import DEV, default_request
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.presets import PRESETS, preset_names
from fluxfast.optimizations.registry import default_names, is_valid, optimization_named
from fluxfast.optimizations.situation import Situation
from tests.support.machines import CPU, H200

TINY = ["--ckpt", "mini-dev", "--resolution", "32", "--num_inference_steps", "1"]
EAGER = [*TINY, "--compile_export_mode", "disabled"]


def planned(*options):
    return planned_from(parser().parse_args(["generate", "--device", "cpu", *options])).plan.names


def test_all_options_of_flux_fast_are_accepted(tmp_path):
    cache, image = tmp_path / "cache.yaml", tmp_path / "cat.png"
    cache.write_text("Fn_compute_blocks: 1")
    Image.new("RGB", (40, 20)).save(image)
    options = [
        *("--ckpt", "black-forest-labs/FLUX.1-Kontext-dev", "--prompt", "a cat"),
        *("--image", str(image), "--cache-dir", str(tmp_path), "--device", "cpu"),
        *("--num_inference_steps", "28", "--output-file", "cat.png", "--seed", "7"),
        *("--trace-file", "trace.json.gz", "--disable_bf16", "--compile_export_mode", "compile"),
        *("--disable_fused_projections", "--disable_channels_last", "--disable_fa3"),
        *("--disable_quant", "--disable_inductor_tuning_flags", "--cache_dit_config", str(cache)),
    ]
    for command in ("generate", "bench"):
        parsed = planned_from(parser().parse_args([command, *options]))
        assert parsed.plan.names == ("dbcache", "compile")
    assert "export_aoti" in planned(*TINY, "--use-cached-model")


def test_options_enable_and_disable_optimizations():
    assert planned(*TINY) == ("fused_projections", "channels_last", "inductor_flags", "regional")
    assert planned(*EAGER) == ("fused_projections", "channels_last")
    assert planned(*EAGER, "--disable_fused_projections") == ("channels_last",)
    assert planned(*EAGER, "--attention", "sdpa", "--quant", "int8")[1:] == (
        "sdpa",
        "channels_last",
        "int8",
    )


def test_enable_and_disable_take_any_optimization():
    assert planned(*EAGER, "--enable", "sdpa", "--enable", "int8")[1:] == (
        "sdpa",
        "channels_last",
        "int8",
    )
    assert planned(*EAGER, "--disable", "channels_last") == ("fused_projections",)
    # An axis keeps its default where another optimization of it is disabled.
    assert planned(*TINY, "--disable", "export_aoti", "--disable", "fa3") == planned(*TINY)
    assert "sdpa" in planned(*EAGER, "--enable", "sdpa", "--disable", "fa3")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("hardware", [CPU, H200], ids=lambda machine: machine.name)
@pytest.mark.parametrize("command", ["generate", "bench"])
def test_the_other_options_change_a_preset(command, hardware, preset, monkeypatch):
    monkeypatch.setattr("fluxfast.cli.pipeline_options.detect", lambda *_: hardware)

    def names(*options):
        return planned_from(parser().parse_args([command, *TINY, *options])).plan

    plain = names("--preset", preset)
    assert plain.names == preset_names(preset, plain.situation)
    assert names().names == preset_names("default", plain.situation)
    changed = names("--preset", preset, "--attention", "sdpa", "--disable", "channels_last").names
    assert changed == preset_names(
        preset, plain.situation, enable=["sdpa"], disable=["channels_last"]
    )
    without = names("--preset", preset, "--disable_fused_projections").names
    assert "fused_projections" not in without
    assert "fused_projections" in names("--preset", preset, "--enable", "fused_projections").names


def test_options_that_contradict_a_preset_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("fluxfast.cli.pipeline_options.detect", lambda *_: H200)
    low_memory = ["generate", *TINY, "--preset", "low_memory"]
    assert main([*low_memory, "--enable", "fused_encoder"]) == 2
    assert "conflicts with fused_encoder" in capsys.readouterr().err


@pytest.mark.slow
def test_generate_writes_images_and_bench_times(tmp_path, capsys):
    image = tmp_path / "deep.png"
    assert main(["generate", *EAGER, "--output-file", str(image), "--batch_size", "2"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep-1.png", "deep-2.png"]
    capsys.readouterr()
    trace = tmp_path / "trace.json.gz"
    arguments = [
        "bench",
        *EAGER,
        "--output-file",
        str(image),
        "--trace-file",
        str(trace),
        "--json",
    ]
    assert main(arguments) == 0
    output = capsys.readouterr()
    figures = json.loads(output.out)
    assert len(figures["e2e_s"]) == 10 and figures["p50_s"] <= figures["p90_s"]
    assert (
        figures["images_per_s"] == 1 / figures["p50_s"]
        and figures["stages"]["denoising step"]["median_ms"] > 0
    )
    assert figures["case"] == "dev-mini-32x32-b1-s1-fused_projections+channels_last"
    assert trace.stat().st_size > 1000 and "s left" in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--ckpt", "flux2"], "no such model or checkpoint"),
        (["generate", *EAGER, "--device", "cuda"], "PyTorch finds no GPU"),
        (["generate", *EAGER, "--attention", "fa3"], "requires a Hopper GPU"),
        (
            ["generate", *EAGER, "--attention", "sdpa", "--disable_fa3"],
            "another disables",
        ),
        (
            ["generate", *EAGER, "--enable", "sdpa", "--disable", "sdpa"],
            "another disables",
        ),
        (
            ["generate", *EAGER, "--quant", "int8", "--enable", "fp8_per_row"],
            "one axis",
        ),
        (["generate", *EAGER, "--enable", "fused_gelu"], "for NVIDIA GPUs"),
        (["generate", *EAGER, "--enable", "warp"], "unknown optimization"),
        (
            ["generate", "--ckpt", "mini-schnell", "--cache_dit_config", "none.yaml"],
            "cannot be read",
        ),
        (["generate", *EAGER, "--resolution", "100"], "multiple of 16"),
        (["generate", *EAGER, "--output-file", "image.nothing"], "unknown image format"),
        (["bench", *EAGER, "--output-file", "image"], "unknown image format"),
        (["generate", *EAGER, "--output-file", "/nowhere/x.png"], "cannot write this file"),
        (["generate", *EAGER, "--trace-file", "/dev/null/t.json"], "cannot write this file"),
        (["generate", *EAGER, "--trace-file", "/proc/x/t.json"], "cannot write this file"),
        (["profile", "dev-mini-32x32-b1-s1-eager", "--trace-file", "."], "cannot write this file"),
        (["generate", *EAGER, "--seed", str(2**64)], "this seed is not possible"),
        (["generate", *EAGER, "--guidance_scale", "nan"], "this guidance_scale is not possible"),
        (["generate", *EAGER[2:], "--ckpt", "mini-kontext"], "none was given"),
        (["generate", *EAGER, "--image", "x.png"], "has no effect here"),
        (["generate", *EAGER, "--use-cached-model"], "has no effect here"),
        (["generate", *EAGER[2:], "--ckpt", "mini-kontext", "--image", "none.png"], "input image"),
        (["matrix", "--gpu", "h300"], "no baseline is named h300"),
        (["baseline", "accept", "nowhere"], "these folders do not exist"),
        (["baseline", "accept", ".", "--processes", "0"], "without processes"),
        (["baseline", "forget", "--cases", "."], "not a file of cases"),
        (["merge", ".", "--output", "/dev/null"], "no results here"),
        (["history", "--add", "nowhere"], "these folders do not exist"),
        (["matrix", "--gpu", "h200", "--gpus", "0"], "invalid number of GPUs"),
        (["selftest", "--runs", "0"], "a self-test without runs"),
        (["selftest", "--images", "0"], "a self-test without images"),
        (["generate", *EAGER, "--weights", "hub"], "does not apply to a mini model"),
        (["generate", *EAGER[:2], *EAGER[4:], "--resolution", ""], "no resolution"),
        (["roofline", ""], "case"),
        (["profile", "--error", "x", "--trace-file", "x.json"], "has no effect here"),
        (["report", "x", "--json", "x"], "read as a result"),
        (["report", ".", "--json", "report.json"], "read as a result"),
        (["report", "x", "--html", "y", "--json", "./y"], "written twice"),
        (["history", "--since", "yesterday"], "--since is not a date"),
        (["history", "--since", ""], "--since is not a date"),
        (["history", "--add", "x", "--json"], "has no effect here"),
        (["history", "--remove", "2026-01-31", "--metric", "e2e_s"], "has no effect here"),
        (["report", "x", "--json", "."], "cannot write this file"),
        (["baseline", "show", "--gpu", "h300"], "no baseline is named h300"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_an_error_with_a_remedy_and_status_2(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and all(part in error for part in ("got:", "allowed:", "remedy:"))
    assert not list(tmp_path.iterdir())


def test_json_output_is_json(capsys):
    for arguments in (
        ["matrix", "--gpu", "mi300x", "--json"],
        ["doctor", "--device", "cpu", "--json"],
        ["baseline", "show", "--gpu", "h200", "--json"],
    ):
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_every_combination_is_listed_as_valid_or_with_a_reason(capsys):
    assert main(["matrix", "--gpu", "h200", "--matrix", "full", "--model", "dev", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    reasons = {tuple(r["optimizations"]): r["reason"] for r in rows if not r["valid"]}
    assert sum(r["valid"] for r in rows) > 500
    assert "step to step" in reasons[("dbcache", "export_aoti")]


def test_tables_fit_a_hundred_columns(capsys):
    for arguments in (
        ["matrix", "--gpu", "h200"],
        ["doctor"],
        ["baseline", "show", "--gpu", "h200"],
    ):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 5
        assert max(len(line) for line in lines if " " in line[:60]) <= 110


def test_a_mistake_is_found_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("fluxfast.pipeline.build.load", load)
    monkeypatch.chdir(tmp_path)
    for option, value in (
        ("--output-file", "x.xyz"),
        ("--output-file", str(tmp_path)),
        ("--trace-file", str(tmp_path)),
    ):
        assert main(["generate", *EAGER, option, value]) == 2
    assert "it is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [("report",), ("merge", "--output", "x"), ("baseline", "accept"), ("history", "--add")],
)
def test_a_path_that_is_too_long_for_the_file_system_is_refused(arguments, capsys):
    assert main([*arguments, "a" * 300]) == 2
    error = capsys.readouterr().err
    assert "a path is longer than this file system allows\n  got:     aaa" in error


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0 and capsys.readouterr().out == f"fluxfast {__version__}\n"


@pytest.mark.parametrize("has", [True, False])
def test_doctor_says_when_python_compiles_its_libraries_at_each_start(
    has, monkeypatch, tmp_path, capsys
):
    """Containers often set PYTHONDONTWRITEBYTECODE: then a start takes 10 s more."""
    bytecode = tmp_path / "torch.pyc"
    if has:
        bytecode.touch()
    found = SimpleNamespace(origin="/site/torch/__init__.py", cached=str(bytecode))
    monkeypatch.setattr("fluxfast.cli.doctor.find_spec", lambda package: found)
    assert main(["doctor", "--device", "cpu"]) == 0
    assert ("-m compileall -q /site" in capsys.readouterr().out) is not has


def test_doctor_calls_available_what_a_plan_accepts():
    here, gpu = optimization_rows(CPU), optimization_rows(H200)
    states = {row["name"]: (row["state"], row["why"]) for row in here}
    assert states["modulation_table"][0] == "absent"
    assert states["modulation_table"][1].startswith("requires fused_norms")
    assert states["regional"][0] == "on" and states["int8"][0] == "available"
    for rows, hardware in ((here, CPU), (gpu, H200)):
        situation = Situation(model=DEV, hardware=hardware, request=default_request(DEV, side=1024))
        for row in rows:
            o = optimization_named(row["name"])
            names = [name for name in o.requires if not isinstance(name, Axis)]
            required = {optimization_named(name).axis: name for name in names}
            plans = [
                default_names(situation, chosen | {o.axis: o.name}) for chosen in ({}, required)
            ]
            accepted = any(is_valid(plan, situation) for plan in plans)
            assert accepted is (row["state"] != "absent"), row


def test_ctrl_c_exits_with_130_and_a_message(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fluxfast.cli.doctor.run", interrupt)
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["report", "x", "--html", ""], "the path is empty"),
    ],
)
def test_a_value_that_is_none_is_a_usage_error(arguments, why, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and why in capsys.readouterr().err
