"""Sessions of pytest perf_tests: record, gate, resume, and the CPU's own baseline."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from fluxfast.bench.baselines.file import write_baseline
from fluxfast.bench.cases.planned import PlannedCase, planned_cases
from fluxfast.bench.results import artifacts
from fluxfast.bench.results.store import read_result, read_results, result_path, write_result
from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.base import ProfiledStep
from fluxfast.pytest_plugin import baselines, resuming
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.session import Suite
from tests.kills.scenario import NOW, Reported, Scenario, again, measured, write_project_baseline
from tests.support.machines import CPU, H200


def session(folder: Path, hardware: Hardware, **changes) -> Suite:
    """Return a session of the suite as the plugin begins it."""
    found = {"gpu": "h200" if hardware.is_gpu else "cpu", "models": ("dev",), "weights": "mini"}
    options = Options(
        **found, baselines=folder / "baselines", results=folder / "results", **changes
    )
    suite = Suite(config=SimpleNamespace(rootpath=folder), options=options)
    suite.__dict__["hardware"] = hardware
    suite.selected = _planned(hardware.platform)
    return suite


@cache
def _planned(platform: Platform) -> tuple[PlannedCase, ...]:
    """Return the unoptimized case and the default of a model."""
    hardware = CPU if platform is Platform.CPU else H200
    return tuple(planned_cases("smoke", ["dev"], "mini", hardware)[0])


def run_session(
    suite: Suite, report: Callable[[str], None], kept: Reported = (), *, judges: bool
) -> None:
    """Run a session as the plugin does, with made-up measurements and images."""
    artifacts.image_quality = lambda image, eager: {"psnr_db": 40.0, "ssim": 0.9}
    baselines.changed_sources = lambda: ()
    resuming.provenance = lambda: NOW
    suite.open_results(judges=judges)

    def measure(planned):
        assert planned.case.id not in kept, f"{planned.case.id} is measured again"
        image = Image.new("RGB", (8, 8), "grey")
        result = measured(planned.case, suite.hardware)
        return SimpleNamespace(  # Measurement imports torch
            result=result, inactive=(), step=ProfiledStep(), image=image, eager_image=None,
            step_errors={},
        )  # fmt: skip

    for planned in suite.selected:
        suite.result_of(planned, lambda planned=planned: measure(planned))
        report(planned.case.id)
    if judges:
        for planned in suite.selected:
            suite.judge(planned)
    suite.close()
    assert suite.unsaved is None, suite.unsaved
    report("closed")


def check_results(folder: Path, reported: Reported | None, hardware: Hardware) -> None:
    """Check that every result that was reported is there and whole, and that all can be read."""
    if any((folder / "results").glob("[!.]*.json")):
        read_results([folder / "results"])
    cases = [planned.case for planned in session(folder, hardware).selected]
    for one in cases:
        if reported is None or one.id in reported:
            assert read_result(result_path(folder / "results", one)).case == one
            with Image.open(artifacts.image_path(folder / "results", one)) as image:
                image.verify()


def prepare_gate(folder: Path) -> None:
    (folder / "baselines").mkdir()
    write_project_baseline(folder / "baselines")


def record(folder: Path, report: Callable[[str], None]) -> None:
    run_session(session(folder, H200, record=True), report, judges=False)


def gate(folder: Path, report: Callable[[str], None]) -> None:
    run_session(session(folder, H200), report, judges=True)


def prepare_resume(folder: Path) -> None:
    prepare_gate(folder)
    result = measured(session(folder, H200, record=True).selected[0].case, H200)
    image = Image.new("RGB", (8, 8), "grey")
    artifacts.write_artifacts(folder / "results", result, ProfiledStep(), image, None)
    write_result(folder / "results", result)


def resume(folder: Path, report: Callable[[str], None], kept: Reported = ()) -> None:
    first = session(folder, H200).selected[0].case.id
    suite = session(folder, H200, record=True, resume=True)
    run_session(suite, report, {first, *kept}, judges=False)


def prepare_own(folder: Path) -> None:
    """Write a CPU's own baseline of one process, which a session adds to."""
    (folder / "baselines").mkdir()
    suite = session(folder, CPU)
    results = [measured(planned.case, CPU, number=1) for planned in suite.selected]
    write_baseline(suite.baseline.extended(results))


def own(folder: Path, report: Callable[[str], None]) -> None:
    run_session(session(folder, CPU), report, judges=True)


def check_own(folder: Path, reported: Reported | None) -> None:
    check_results(folder, reported, CPU)
    found = session(folder, CPU).baseline.results
    expected = 2 if reported is None or "closed" in reported else 1
    assert len(found) == 2 and all(len(results) >= expected for results in found.values())


SCENARIOS = (
    Scenario(
        name="record",
        prepare=prepare_gate,
        run=record,
        check=partial(check_results, hardware=H200),
        again=again(record),
    ),
    Scenario(
        name="gate",
        prepare=prepare_gate,
        run=gate,
        check=partial(check_results, hardware=H200),
        again=again(gate),
    ),
    Scenario(
        name="resume",
        prepare=prepare_resume,
        run=resume,
        check=partial(check_results, hardware=H200),
        again=lambda folder, reported: resume(folder, lambda _: None, reported),
    ),
    Scenario(
        name="CPU's own baseline",
        prepare=prepare_own,
        run=own,
        check=check_own,
        again=again(own),
    ),
)
