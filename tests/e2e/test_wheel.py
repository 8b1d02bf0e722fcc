"""The wheel holds what a user needs, and works in an empty folder without a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from fluxfast.bench.results.store import write_result
from tests.support.forked import run_module
from tests.support.synthetic_results import ablation

REPOSITORY = Path(__file__).parents[2]
SMALL_IMAGE = ("--num_inference_steps", "2", "--resolution", "64",
               "--compile_export_mode", "disabled")  # fmt: skip
MIB = 1 << 20

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]


def pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments[:1], *quiet, *arguments[1:]],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), ".")
    (path,) = folder.glob("fluxfast-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", str(folder), str(wheel))
    return folder


@pytest.fixture
def fluxfast(installed, tmp_path, monkeypatch):
    """Return a function that runs the wheel's command line in an empty folder."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: run_module("fluxfast", [*arguments], tmp_path)


def test_the_wheel_holds_what_a_user_needs_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"fluxfast"}
    weights = "fluxfast/mini/weights"
    assert names >= {
        "fluxfast/py.typed",
        "fluxfast/report/page.html",
        "fluxfast/report/page.css",
        "fluxfast/report/page.js",
        f"{weights}/mini-dev/transformer/diffusion_pytorch_model.safetensors",
        f"{weights}/mini-schnell/transformer/diffusion_pytorch_model.safetensors",
        f"{weights}/mini-schnell/scheduler/scheduler_config.json",
        f"{weights}/mini-kontext/model_index.json",
        f"{weights}/mini-clip/model.safetensors",
        *(f"fluxfast/_baselines/{path.name}" for path in (REPOSITORY / "baselines").iterdir()),
    }
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in names}
    assert not [name for name in names if name.startswith("fluxfast/ci/")]


def test_the_wheel_holds_shared_weights_once(wheel):
    files = [i for i in zipfile.ZipFile(wheel).infolist() if i.filename.endswith(".safetensors")]
    assert len({file.CRC for file in files}) == len(files)
    assert wheel.stat().st_size < 32 * MIB


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (("--version",), "fluxfast 0."),
        (("doctor",), "fused_projections"),
        (("matrix", "--gpu", "h200"), "fp8_per_row"),
        (("baseline", "show", "--gpu", "h200"), "schnell"),
        (("roofline", "--help"), "usage"),
    ],
    ids=["version", "doctor", "matrix", "baseline", "roofline"],
)
def test_a_command_works_in_an_empty_folder(fluxfast, command, printed):
    done = fluxfast(*command)
    assert done.ret == 0, done.errlines
    assert printed in done.stdout.str()


@pytest.mark.parametrize("model", ["mini-dev", "mini-schnell", "mini-kontext"])
def test_an_image_is_generated_in_an_empty_folder(fluxfast, tmp_path, model):
    options = SMALL_IMAGE
    if model == "mini-kontext":
        Image.new("RGB", (64, 64), "white").save(tmp_path / "input.png")
        options += ("--image", "input.png")
    done = fluxfast("generate", "--ckpt", model, *options)
    assert done.ret == 0, done.errlines
    assert (tmp_path / "output.png").stat().st_size > 0


def test_the_package_is_imported_from_the_wheel_with_its_types(installed, tmp_path):
    code = "import fluxfast; print(fluxfast.__file__, len(fluxfast.list_optimizations()))"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(installed)), done.stderr


def test_a_command_that_needs_the_checkout_reports_so(fluxfast, tmp_path):
    result = next(iter(ablation(seed=1)))
    write_result(tmp_path / "results", result)
    done = fluxfast("baseline", "accept", "results", "--gpu", "h200")
    assert done.ret == 2, done.errlines
    assert "needs a checkout of the project" in done.stderr.str()
