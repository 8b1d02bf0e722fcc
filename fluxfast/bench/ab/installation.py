"""The code and the interpreter that a side of a comparison runs with. No torch."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A checkout and the Python that runs it.

    Attributes:
        tree: the checkout, whose fluxfast is imported.
        interpreter: the Python, whose environment has the libraries.
    """

    tree: Path
    interpreter: Path = field(default_factory=lambda: Path(sys.executable))

    def command(self, module: str, *arguments: str) -> list[str]:
        """Return the command that runs a module of the tree."""
        return [str(self.interpreter), "-m", module, *arguments]

    def __str__(self) -> str:
        """Return the interpreter and the tree, for messages."""
        return f"{self.interpreter} in {self.tree}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of a process.

        The tree comes first on the path. The interpreter of this process may find libraries in
        further folders of PYTHONPATH; another interpreter would find them, too, before its own.
        """
        folders = [str(self.tree)]
        kept = dict(os.environ)
        if self.interpreter == Path(sys.executable):
            folders += filter(None, [os.environ.get("PYTHONPATH")])
        else:
            kept.pop("PYTHONHOME", None)
        return kept | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONUNBUFFERED": "1"}
