"""The tree of another revision, checked out next to this one. No torch."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxfast.errors import FluxFastError

CHILD = "fluxfast.bench.ab.child"  # the program that every revision to compare with must have
CHILD_FILE = f"{CHILD.replace('.', '/')}.py"


def comparable_commit(ref: str, repository: Path) -> str:
    """Return the commit of a revision that can be compared with this one.

    Raises:
        FluxFastError: git does not know the revision, or it is too old for `--against`.
    """
    commit = _git(repository, "rev-parse", "--verify", f"{ref}^{{commit}}")
    if not _git(repository, "ls-tree", "--name-only", commit, CHILD_FILE):
        raise FluxFastError(
            "this revision is too old to compare with",
            got=f"{ref} ({commit[:12]}), which has no {CHILD_FILE}",
            allowed="a revision that has the measuring process of `--against`",
            remedy="compare with a newer revision, or record a baseline there and judge against it",
        )
    return commit


@contextmanager
def worktree(ref: str, repository: Path, folder: Path) -> Iterator[Path]:
    """Check the tree of a revision out into a folder of its own; remove it at the end."""
    commit = _git(repository, "rev-parse", "--verify", f"{ref}^{{commit}}")
    tree = folder / commit[:12]
    if tree.exists():
        _git(repository, "worktree", "remove", "--force", str(tree))
    folder.mkdir(parents=True, exist_ok=True)
    _git(repository, "worktree", "add", "--detach", str(tree), commit)
    try:
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        _git(repository, "worktree", "prune")


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=repository, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise FluxFastError(
            "git cannot find the other revision",
            got=f"git {' '.join(arguments)}: {getattr(error, 'stderr', None) or error}".strip(),
            allowed="a commit, branch or tag of this repository",
            remedy="fetch it first, and name it with --against REF",
        ) from error
    return done.stdout.strip()
