"""The request to a measuring process and its events, as JSON. No torch.

Two revisions of fluxfast exchange them, so the format has a schema number of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from fluxfast.bench.cases.role import Role
from fluxfast.errors import FluxFastError

REQUEST_SCHEMA = 1
ROLES_SCHEMA = 2  # of a request with roles; `revision` looks for this name in a tree


@dataclass(frozen=True, kw_only=True)
class Request:
    """The cases and settings of a measuring process.

    Attributes:
        cases: the ids of the cases to measure, in order.
        results: the folder for results, artifacts included.
        device: `cpu`, or `auto` for the GPU if there is one.
        rounds: an exact number of images per case; None for the noise rule.
        seconds: time limit of the noise rule in seconds.
        roles: by case id, the role to measure instead: what stands for it in the tree that measures
            may be another case.
    """

    cases: tuple[str, ...]
    results: Path
    device: str
    rounds: int | None
    seconds: float
    roles: Mapping[str, Role] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the request on one line; without roles, as older revisions read it."""
        data = asdict(self) | {"schema": ROLES_SCHEMA, "results": str(self.results.absolute())}
        if not data["roles"]:
            del data["roles"]
            data["schema"] = REQUEST_SCHEMA
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a request.

        Raises:
            FluxFastError: the request is of another schema.
        """
        data = json.loads(text)
        if data.pop("schema", None) not in (REQUEST_SCHEMA, ROLES_SCHEMA):
            raise FluxFastError(
                "the two revisions cannot be compared: their measuring processes differ",
                got=text,
                allowed=f"a request of schema {REQUEST_SCHEMA} or {ROLES_SCHEMA}",
                remedy="compare with a revision that is nearer to this one",
            )
        roles = {case_id: Role(role) for case_id, role in data.pop("roles", {}).items()}
        changes = {"cases": tuple(data["cases"]), "results": Path(data["results"])}
        return cls(**{**data, **changes, "roles": roles})


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a measuring process.

    Attributes:
        kind: `progress`, `measured` or `failed`.
        case: the id of the case.
        text: the stage; the id of the case that was measured ("": the one asked for); or the error.
    """

    kind: str
    case: str
    text: str = ""

    def to_json(self) -> str:
        """Return the event on one line."""
        return json.dumps({"event": self.kind, "case": self.case, "text": self.text})


def parse_event(line: str) -> Event | None:
    """Return the event of a line; None for anything else that a process prints."""
    try:
        data: Any = json.loads(line) if line.startswith('{"event"') else None
        return data and Event(kind=data["event"], case=data["case"], text=data["text"])
    except (ValueError, KeyError):
        return None
