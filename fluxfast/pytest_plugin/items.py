"""The tests of a session that measure and judge cases. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from fluxfast.bench.cases.planned import PlannedCase


def planned_of(item: pytest.Item) -> PlannedCase | None:
    """Return the case of a test; None where it has none."""
    call = getattr(item, "callspec", None)
    planned = call.params.get("planned") if call else None
    # Without cases, pytest's parameter is a placeholder, which is not a PlannedCase.
    return planned if isinstance(planned, PlannedCase) else None


def cases_of(items: Iterable[pytest.Item]) -> tuple[PlannedCase, ...]:
    """Return the cases of the tests, each once."""
    chosen = filter(None, map(planned_of, items))
    return tuple({planned.case.id: planned for planned in chosen}.values())


def turn(item: pytest.Item) -> tuple[int, str]:
    """Return what sorts tests: they measure cases, then add figures file by file, then judge.

    pytest would mix the files, because it sorts by the number of a case in its module's matrix.
    """
    module: Any = getattr(item, "module", None)
    if getattr(module, "ADDS_FIGURES", False):
        return 1, module.__name__
    return 2 * judges(item), ""


def judges(item: pytest.Item) -> bool:
    """Return whether a test judges a case that another test measures."""
    return getattr(item, "originalname", "") == "test_verdict"


def keeps_compiled_code(items: Iterable[pytest.Item]) -> bool:
    """Return whether tests may reuse code of earlier cases: none of them times a start."""
    modules = [getattr(item, "module", None) for item in items if planned_of(item)]
    return all(getattr(module, "KEEPS_COMPILED_CODE", False) for module in modules)
