"""A job on a GPU runner leaves nothing for the next one: `make runner`, run as it is written."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# A project of a pull request whose installation leaves files wherever it may.
LEAVING = """
import base64, hashlib, os, pathlib, zipfile
def leave():
    caches = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
    for folder in (pathlib.Path.home() / ".local", pathlib.Path.home() / ".config" / "pip",
                   *(pathlib.Path(os.environ[name]) for name in caches)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "left").touch()
def build_editable(folder, config_settings=None, metadata_directory=None):
    leave()
    name = "fluxfast-1-py3-none-any.whl"
    info = "fluxfast-1.dist-info"
    files = {
        "left.pth": "import sys; sys.left = True",
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: fluxfast\\nVersion: 1\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    record = "".join(f"{path},,\\n" for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        for path, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(path, text)
    return name
build_wheel = build_editable
"""
PROJECT = """
[build-system]
requires = []
build-backend = "leaving"
backend-path = ["."]
"""
# Copying pip into the environment would take longer than everything else.
WITHOUT_PIP = f'#!/bin/sh\nexec {sys.executable} "$@" --without-pip\n'
# Stands in for Python where only the folders matter.
NO_PYTHON = """#!/bin/sh
[ "$3" != venv ] || { mkdir -p $4/bin; cp $0 $4/bin/python; }
"""


def found(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.subprocess
def test_what_a_job_leaves_is_gone_in_the_next_one(tmp_path):
    project, home, temp = (tmp_path / name for name in ("project", "home", "temp"))
    for folder in (project, home, temp):
        folder.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "leaving.py").write_text(LEAVING)
    (project / "constraints-h200.txt").touch()
    variables, path = temp / "variables", temp / "path"
    (tmp_path / "only pip").mkdir()
    # Even to look for the module would make setuptools leave its distutils, which Inductor needs.
    (tmp_path / "only pip" / "pip").symlink_to(distribution("pip").locate_file("pip"))
    given = {
        **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
        "PYTHONPATH": str(tmp_path / "only pip"),
        "HOME": str(home), "RUNNER_TEMP": str(temp),
        "GITHUB_ENV": str(variables), "GITHUB_PATH": str(path),
    }  # fmt: skip
    given.pop("HF_HOME", None)

    def make_runner(script):
        python = tmp_path / "python"
        python.write_text(script)
        python.chmod(0o755)
        command = ["make", "-f", str(REPOSITORY / "Makefile"), "runner", f"PYTHON={python}"]
        subprocess.run(command, cwd=project, env=given, check=True, capture_output=True)

    make_runner(WITHOUT_PIP)
    del given["PYTHONPATH"]
    job = dict(line.split("=", 1) for line in variables.read_text().splitlines())
    python = Path(path.read_text().strip(), "python")
    sees = [python, "-c", "import sys; print(hasattr(sys, 'left'), *sys.path)"]
    done = subprocess.run(sees, env=given | job, capture_output=True, text=True)
    left, *places = done.stdout.split()
    assert left == "True", done.stderr  # the project is installed,
    assert all(place.startswith((str(temp), sys.base_prefix)) for place in places)
    assert not any("site-packages" in p for p in places if not p.startswith(str(temp)))
    assert {"job", "variables", "path"} == {one.name for one in temp.iterdir()}
    assert len([one for one in found(temp) if one.name == "left"]) == 6
    assert found(home) == set()  # and only into this job.
    assert job["HF_HOME"] == str(home / ".cache" / "huggingface")

    make_runner(NO_PYTHON)
    assert not [one for one in found(temp) if "left" in one.name]
    assert found(home) == set()
