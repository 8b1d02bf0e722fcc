"""A case: one cell of the optimization matrix, identified by its parameters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.models.weights import WeightsKind
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.registry import decides, eager_combinations

ID = re.compile(
    r"(?P<model>\w+)-(?P<weights>\w+)-(?P<height>\d+)x(?P<width>\d+)"
    r"-b(?P<batch_size>\d+)-s(?P<num_inference_steps>\d+)(-g(?P<gpus>\d+))?"
    r"(-cache_(?P<cache>\w+))?-(?P<names>[\w+]+)"
)
TEXTS = ("model", "weights", "cache")  # of the parts of an id; the others are numbers
# Characters of a file name: file systems take 255 bytes, endings and temporary names need some.
LONGEST_STEM = 230
DIGEST_CHARACTERS = 12


@dataclass(frozen=True, kw_only=True)
class Case:
    """One combination of model, weights, optimizations and request.

    Attributes:
        model: `dev`, `schnell` or `kontext`.
        weights: a WeightsKind; of a case of one's own, the checkpoint's name with a digest, see
            `own.py`.
        optimizations: the names of the enabled optimizations, in the order of the registry.
        height: height of the image in pixels.
        width: width of the image in pixels.
        batch_size: images generated at a time.
        num_inference_steps: denoising steps.
        gpus: GPUs that share an image.
        cache: the preset of the cache's settings; None for the cache as it is, and without one.
    """

    model: str
    weights: str
    optimizations: tuple[str, ...]
    height: int
    width: int
    batch_size: int
    num_inference_steps: int
    gpus: int = 1
    cache: str | None = None

    @property
    def id(self) -> str:
        """The identifier, as `dev-synthetic-1024x1024-b1-s28-bf16+fa3_fp8`; height before width.

        Several GPUs and a preset of the cache come after the steps: `-s28-g2-cache_fast-`.
        """
        shape = f"{self.height}x{self.width}-b{self.batch_size}-s{self.num_inference_steps}"
        if self.gpus > 1:
            shape += f"-g{self.gpus}"
        if self.cache is not None:
            shape += f"-cache_{self.cache}"
        return f"{self.model}-{self.weights}-{shape}-{'+'.join(self.optimizations) or 'eager'}"

    @property
    def file_stem(self) -> str:
        """The name of the case's files without ending: the id; of a long one, with a digest."""
        if len(self.id) <= LONGEST_STEM:
            return self.id
        digest = hashlib.sha256(self.id.encode()).hexdigest()[:DIGEST_CHARACTERS]
        return f"{self.id[: LONGEST_STEM - len(digest) - 1]}-{digest}"

    @property
    def is_own(self) -> bool:
        """Return whether the case comes from a file of cases of one's own."""
        return self.weights not in list(WeightsKind)

    @classmethod
    def from_id(cls, text: str) -> Case:
        """Return the case with this `id`; raise FluxFastError if the text is no case id."""
        found = ID.fullmatch(text)
        if not found:
            raise FluxFastError(
                "this is no case id",
                got=text,
                allowed="an id such as dev-synthetic-1024x1024-b1-s28-bf16+fa3_fp8",
                remedy="list the ids of this machine with `fluxfast matrix --json`",
            )
        parts: dict[str, Any] = found.groupdict()
        names = parts.pop("names")
        optimizations = () if names == "eager" else tuple(names.split("+"))
        numbers = {k: int(v or 1) for k, v in parts.items() if k not in TEXTS}
        return cls(optimizations=optimizations, **{**parts, **numbers})

    @property
    def combination(self) -> tuple[str, ...]:
        """The optimizations, a cache with the preset of its settings: `dbcache (fast)`."""
        return tuple(
            f"{name} ({self.cache})" if self.cache and decides([name], Axis.CACHE) else name
            for name in self.optimizations
        )

    @property
    def workload(self) -> tuple[Any, ...]:
        """Everything but optimizations and their settings; cases of one workload compare."""
        return (
            self.model,
            self.weights,
            self.height,
            self.width,
            self.batch_size,
            self.num_inference_steps,
            self.gpus,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields for JSON; `gpus` where they are several, `cache` where it is one."""
        fields = asdict(self) | {"optimizations": list(self.optimizations)}
        if self.gpus == 1:
            del fields["gpus"]
        if self.cache is None:
            del fields["cache"]
        return fields

    def eager_among(self, cases: Iterable[Case]) -> Case | None:
        """Return the unoptimized case of the same workload among `cases`; None if it is missing."""
        return eager_by_workload(cases).get(self.workload)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> Case:
        """Return the case that JSON describes.

        Args:
            data: the parsed JSON.
            where: the file that it comes from, for errors.

        Raises:
            BaselineError: a key is missing or unknown, or a value is of the wrong type.
        """
        try:
            found = cls(**{**data, "optimizations": tuple(data["optimizations"])})
            is_list = not isinstance(data["optimizations"], str)
            if not is_list or cls.from_id(found.id) != found:  # an id spells every field
                raise ValueError(f"{found.id} has a value of the wrong type")
        except (KeyError, TypeError, ValueError, FluxFastError) as error:
            raise BaselineError(
                "the description of a case is wrong",
                got=f"{where}: {str(error).splitlines()[0]}",
                allowed=", ".join(cls.__annotations__),
                remedy="record it again",
            ) from error
        return found


def eager_by_workload(cases: Iterable[Case]) -> dict[tuple[Any, ...], Case]:
    """Return the unoptimized case of each workload that has one among `cases`."""
    ranks = {names: rank for rank, names in enumerate(eager_combinations())}
    eager = [case for case in cases if case.optimizations in ranks]
    found: dict[tuple[Any, ...], Case] = {}
    for case in sorted(eager, key=lambda case: ranks[case.optimizations]):
        found.setdefault(case.workload, case)
    return found
