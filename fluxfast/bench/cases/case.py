"""One cell of the matrix; its identity is derived from its parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.optimizations.registry import eager_combinations

ID = re.compile(
    r"(?P<model>\w+)-(?P<weights>\w+)-(?P<height>\d+)x(?P<width>\d+)"
    r"-b(?P<batch_size>\d+)-s(?P<num_inference_steps>\d+)-(?P<names>[\w+]+)"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    model: str
    weights: str
    optimizations: tuple[str, ...]
    height: int
    width: int
    batch_size: int
    num_inference_steps: int

    @property
    def id(self) -> str:
        """As `dev-synthetic-1024x1024-b1-s28-bf16+fa3_fp8`; height before width."""
        shape = f"{self.height}x{self.width}-b{self.batch_size}-s{self.num_inference_steps}"
        return f"{self.model}-{self.weights}-{shape}-{'+'.join(self.optimizations) or 'eager'}"

    @classmethod
    def from_id(cls, text: str) -> Case:
        """The case that `id` calls so. Raises FluxFastError where it is no such name."""
        found = ID.fullmatch(text)
        if not found:
            raise FluxFastError(
                "this is not the name of a case",
                got=text,
                allowed="as dev-synthetic-1024x1024-b1-s28-bf16+fa3_fp8",
                remedy="`fluxfast matrix --json` lists those of this machine",
            )
        parts: dict[str, Any] = found.groupdict()
        names = parts.pop("names")
        optimizations = () if names == "eager" else tuple(names.split("+"))
        numbers = {k: int(v) for k, v in parts.items() if v.isdecimal()}
        return cls(optimizations=optimizations, **{**parts, **numbers})

    @property
    def workload(self) -> tuple[Any, ...]:
        """All but the optimizations: cases of one workload can be compared with each other."""
        return (
            self.model,
            self.weights,
            self.height,
            self.width,
            self.batch_size,
            self.num_inference_steps,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"optimizations": list(self.optimizations)}

    def eager_among(self, cases: Iterable[Case]) -> Case | None:
        """The unoptimized case of the same workload."""
        found = {c.optimizations: c for c in cases if c.workload == self.workload}
        return next((found[names] for names in eager_combinations() if names in found), None)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Case:
        try:
            return cls(**{**data, "optimizations": tuple(data["optimizations"])})
        except (KeyError, TypeError) as error:
            raise BaselineError(
                "a case is described wrongly",
                got=str(error),
                allowed=", ".join(cls.__annotations__),
                remedy="record it again",
            ) from error
