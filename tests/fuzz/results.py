"""Results, artifacts, sides of a comparison, baselines and histories, and the commands for them."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fluxfast.bench.baselines import lookup
from fluxfast.bench.baselines.file import write_baseline
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.results.artifacts import image_path, write_figures
from fluxfast.bench.results.sides import write_sides
from fluxfast.bench.results.store import write_result
from fluxfast.cli import baseline as baseline_command
from fluxfast.pytest_plugin import resuming
from fluxfast.pytest_plugin.judging import verdict_json
from tests.fuzz.mutations import damaged, damaged_bytes, mutated, replaced_file
from tests.fuzz.outcomes import Kind, check_markdown, check_page, command, strict_json
from tests.support.machines import H200
from tests.support.processes import process
from tests.support.results import CANARIES, case
from tests.support.synthetic_sides import two_environments

CASES = (case(), case(optimizations=("bf16",)))
GPU = {
    "name": "NVIDIA H200",
    "uuid": "GPU-a",
    "driver": "580.1",
    "cuda": "13.0",
    "power_cap_w": 700,
}
PAGES = 60  # one report in so many is a page: it takes as long as all other commands together
SHIPPED = find_baseline("h200")


@cache
def ready():
    """Return the results of both sides and an accepted baseline, all well-formed."""
    found = {
        (side, one.id): process(
            1.0 + n / 100,
            images=3,
            seed=n,
            case=one,
            canaries=CANARIES,
            clock_mhz=1500.0,
            environment={"hardware": H200.to_json(), "python": "3.12", "gpu": GPU},
            provenance={
                **{"commit": "abc", "dirty": False, "process": n, "command": "pytest perf_tests"},
                "date": f"2026-11-0{n + 1}T00:00:00+00:00",
            },
            telemetry=({"sm_clock_mhz": 1500.0, "temperature_c": 50.0, "energy_j": 100.0},) * 3,
            kernels={"gemm": ("a",), "attention": ("b",)},
            sampling={"ended": "noise", "discarded": ["x"], "after_first_image_s": 3.0},
            lora_swaps_s=(0.4, 0.5),
            other_sizes_extra_s=(0.3, 0.001),
            device_busy=0.9,
            package_mib=3.0,
        )
        for n, (side, one) in enumerate((side, one) for side in "ABC" for one in CASES)
    }
    accepted = {one.id: (found["A", one.id], found["C", one.id]) for one in CASES}
    return found, replace(SHIPPED, results=accepted)


def write_run(folder: Path, side: str) -> None:
    """Write the results of a side with all their artifacts."""
    for name, content in _files(side).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@cache
def _files(side: str) -> dict[Path, bytes]:
    """Return the content of the files of a side's results by their paths in its folder."""
    found, accepted = ready()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for one in CASES:
            result = found[side, one.id]
            write_result(folder, result)
            image_path(folder, one).write_bytes(_png())
            for kind, figures in {
                "quality": {"psnr_db": 41.2, "ssim": 0.98},
                "kernels": {"GEMM": 40.0, "attention": 17.6, "idle": 3.0},
                "roofline": {
                    "ceilings": {"tflops": 1300, "attention_tflops": 900, "tb_per_s": 4.29},
                    "kernels": [{"name": "GEMM", "tflop": 0.9, "gb": 1.2, "ms": 1.1}],
                },
                "verdicts": verdict_json(accepted.judge([result]), None),
            }.items():
                write_figures(folder, kind, one, figures)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder): path.read_bytes() for path in files}


@cache
def _png() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def mutate_json(random: Random, path: Path) -> None:
    """Change a JSON file: its values, its text, or what lies at its path."""
    if random.random() < 0.04:
        replaced_file(random, path)
        return
    text = json.dumps(mutated(random, json.loads(path.read_text())))
    if random.random() < 0.15:
        text = damaged(random, text)
    path.write_bytes(text.encode(errors="surrogatepass"))


def report(random: Random, *words: object, folder: Path) -> None:
    """Run `fluxfast report` with one kind of output, and check that."""
    if random.randrange(PAGES) == 0:
        command("report", *words, "--html", folder / "page.html")
        check_page((folder / "page.html").read_text())
    elif random.randrange(2):
        command("report", *words, "--json", folder / "report.json")
        strict_json((folder / "report.json").read_text())
    else:
        command("report", *words, "--markdown", folder / "report.md")
        check_markdown((folder / "report.md").read_text())


def feed_results(random: Random, folder: Path) -> None:
    ours, theirs = folder / "B", folder / "C"
    write_run(ours, "B")
    write_run(theirs, "C")
    file = random.choice(sorted(ours.glob("*.json")))
    mutate_json(random, file)
    match random.choice(("report", "against", "merge", "history", "accept", "resume")):
        case "report":
            report(random, ours, folder=folder)
        case "against":
            report(random, *random.sample((ours, theirs), 1), "--against", theirs, folder=folder)
        case "merge":
            command("merge", ours, theirs, "--output", folder / "merged")
            report(random, folder / "merged", folder=folder)
        case "history":
            database = folder / "history.sqlite3"
            command("history", "--database", database, "--add", ours)
            strict_json(command("history", "--database", database, "--json"))
            command("history", "--database", database)
        case "accept":
            _accept(ours, theirs, folder)
        case "resume":
            resuming.provenance = lambda: {"commit": "abc", "dirty": False}
            resuming.kept_result(ours, random.choice(CASES), H200)


def _accept(ours: Path, theirs: Path, folder: Path) -> None:
    _ship(folder)
    command("baseline", "accept", ours, theirs, "--processes", "2")
    command("baseline", "show", "--gpu", "h200")
    strict_json(command("baseline", "show", "--gpu", "h200", "--json"))


def _ship(folder: Path) -> Path:
    """Let this process find a baseline of its own instead of the project's; return its path."""
    shipped = folder / "baselines"
    lookup.shipped_baselines = baseline_command.shipped_baselines = lambda: shipped
    path = shipped / SHIPPED.path.name
    shipped.mkdir()
    path.write_bytes(_accepted())
    path.with_suffix(".history.tsv").write_text("date\tcommit\n")
    return path


@cache
def _accepted() -> bytes:
    with TemporaryDirectory() as name:
        path = Path(name) / SHIPPED.path.name
        write_baseline(replace(ready()[1], path=path))
        return path.read_bytes()


def feed_artifacts(random: Random, folder: Path) -> None:
    ours = folder / "B"
    write_run(ours, "B")
    file = random.choice([p for p in sorted(ours.rglob("*.*")) if p.parent != ours or _is_image(p)])
    if _is_image(file):
        file.write_bytes(damaged_bytes(random, file.read_bytes()))
    else:
        mutate_json(random, file)
    match random.choice(("report", "report", "merge")):
        case "report":
            report(random, ours, folder=folder)
        case "merge":
            command("merge", ours, "--output", folder / "merged")
            report(random, folder / "merged", folder=folder)


def _is_image(path: Path) -> bool:
    return path.suffix == ".png"


def feed_sides(random: Random, folder: Path) -> None:
    write_run(folder / "run" / "A1", "A")
    write_run(folder / "run" / "B1", "B")
    write_sides(folder / "run", two_environments("2.11.0", "2.12.0"))
    names = ("sides/A.json", "sides/B.json", f"B1/verdicts/{CASES[0].id}.json")
    mutate_json(random, folder / "run" / random.choice(names))
    match random.choice(("report", "history")):
        case "report":
            report(random, folder / "run", folder=folder)
        case "history":
            database = folder / "history.sqlite3"
            command("history", "--database", database, "--add", folder / "run")
            command("history", "--database", database)


def feed_baseline(random: Random, folder: Path) -> None:
    path = _ship(folder)
    mutate_json(random, path)
    if random.randrange(20) == 0:
        tsv = path.with_suffix(".history.tsv")
        tsv.write_bytes(damaged_bytes(random, tsv.read_bytes()))
    match random.choice(("show", "report", "against", "judge", "history", "accept")):
        case "show":
            strict_json(command("baseline", "show", "--gpu", "h200", "--json"))
            command("baseline", "show", "--gpu", "h200")
        case "report":
            report(random, path, folder=folder)
        case "against":
            write_run(folder / "B", "B")
            report(random, folder / "B", "--against", path, folder=folder)
        case "judge":
            write_run(folder / "B", "B")
            report(random, folder / "B", folder=folder)
        case "history":
            database = folder / "history.sqlite3"
            command("history", "--database", database, "--add", path)
            command("history", "--database", database)
        case "accept":
            write_run(folder / "B", "B")
            command("baseline", "accept", folder / "B", "--processes", "1")
            command("baseline", "show", "--gpu", "h200")


KINDS = (
    Kind(name="result", weight=22, feed=feed_results),
    Kind(name="artifacts", weight=8, feed=feed_artifacts),
    Kind(name="sides", weight=6, feed=feed_sides),
    Kind(name="baseline", weight=14, feed=feed_baseline),
)
