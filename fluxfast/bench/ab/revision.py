"""The tree of another revision, checked out next to this one. No torch."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxfast.bench.cases.role import Role
from fluxfast.errors import FluxFastError
from fluxfast.files import locked

CHILD = "fluxfast.bench.ab.child"  # the program that every revision to compare with must have
CHILD_FILE = f"{CHILD.replace('.', '/')}.py"
REQUEST_FILE = "fluxfast/bench/ab/request.py"
ROLE_FILE = "fluxfast/bench/cases/role.py"


def understands_role(role: Role, tree: Path) -> bool:
    """Return whether the measuring process of a tree can plan a case by this role."""
    needed = {REQUEST_FILE: "ROLES_SCHEMA", ROLE_FILE: f'"{role.value}"'}
    return all(
        (tree / file).is_file() and text in (tree / file).read_text(encoding="utf-8")
        for file, text in needed.items()
    )


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
    """Check the tree of a revision out into a folder of this run; remove it at the end.

    The tree is a repository that reads the objects of this one, and this one knows nothing of it: a
    run that is killed leaves a folder, which the next run removes, and nothing else.

    Args:
        ref: the revision.
        repository: the checkout of this revision.
        folder: the folder of the trees of all runs.
    """
    commit = _git(repository, "rev-parse", "--verify", f"{ref}^{{commit}}")
    _remove_abandoned(folder)
    tree = folder / f"{commit[:12]}-{secrets.token_hex(4)}"
    with locked(_lock(tree)):
        try:
            _check_out(commit, repository, tree)
            yield tree
        finally:
            shutil.rmtree(tree, ignore_errors=True)


def _lock(tree: Path) -> Path:
    return tree.with_name(f"{tree.name}.lock")


def _remove_abandoned(folder: Path) -> None:
    """Remove the trees whose run has ended without removing them."""
    names = {path.name.removesuffix(".lock") for path in folder.glob("*")}
    for tree in (folder / name for name in names):
        try:
            with locked(_lock(tree), waits=False):
                shutil.rmtree(tree, ignore_errors=True)
        except BlockingIOError:
            continue  # another run measures with it


def _check_out(commit: str, repository: Path, tree: Path) -> None:
    objects, shallow = (
        repository / _git(repository, "rev-parse", "--git-path", name)
        for name in ("objects", "shallow")
    )
    tree.mkdir(parents=True)
    _git(tree, "init", "--quiet", "--template=")
    own = tree / ".git"
    (own / "objects" / "info" / "alternates").write_text(f"{objects.resolve()}\n")
    if shallow.exists():  # commits whose parents are missing, in a clone with --depth
        shutil.copy(shallow, own)
    _git(tree, "checkout", "--quiet", "--detach", commit)


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
