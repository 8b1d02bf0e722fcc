"""Write files atomically, and find the project's checkout and its baselines."""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from fluxfast.errors import FluxFastError

PACKAGE = Path(__file__).parents[1]
GIT_TIMEOUT_S = 20


def stated_path(text: str) -> Path:
    """Return the path that an option states.

    Raises:
        argparse.ArgumentTypeError: it is empty, as of a `$(…)` that failed, and would be this
            folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: give one, or leave the option out")
    return Path(text)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` in UTF-8 as `write_bytes_atomically` writes bytes."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all; a symbolic link keeps pointing to the file.

    A path that exists and is no file, such as /dev/stdout, is written to directly.

    Raises:
        FluxFastError: the disk is full or the folder is not writable; the old file stays.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        try:
            path.write_bytes(content)
        except OSError as error:
            raise _unwritable(path, error) from error
        return
    # Without the ending: a reader of a folder would take what a killed writer left for a result.
    temporary = path.with_name(f".{path.name}.part")
    with _replaced(path, temporary, (OSError,)), temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move the file that was written over `path`.

    The temporary name keeps the ending, because some writers choose the format by it. On an error
    the temporary file is removed and the old file stays. What a killed writer left is overwritten
    by the next one of the path, which waits while another is at work.

    Args:
        path: the final path; its folder is created.
        *errors: exceptions of the writer that mean the file cannot be written, besides OSError.

    Raises:
        FluxFastError: the file cannot be written.
    """
    ending = "".join(path.suffixes[-2:])
    temporary = path.with_name(f".{path.name.removesuffix(ending)}.part{ending}")
    with _replaced(path, temporary, (OSError, *errors)):
        yield temporary


@contextmanager
def _replaced(path: Path, temporary: Path, refused: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened_lock(temporary):
            try:
                yield
                temporary.replace(path)
            except BaseException:  # afterwards the name may be that of the next writer's file
                temporary.unlink(missing_ok=True)
                raise
    except refused as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> FluxFastError:
    reason = error.strerror if isinstance(error, OSError) else None
    return FluxFastError(
        "cannot write this file",
        got=f"{path}: {reason or error}",
        allowed="a folder with room that can be written, and an ending that fits the content",
        remedy="free some space or name another file; nothing was half-written",
    )


@contextmanager
def locked(path: Path, *, waits: bool = True) -> Iterator[None]:
    """Hold the lock that the file `path` stands for; it contains the id of this process.

    The operating system releases the lock when the process ends, even if it was killed.

    Args:
        path: the file of the lock, removed at the end.
        waits: whether to wait for another process that holds the lock.

    Raises:
        BlockingIOError: another process holds the lock, and `waits` is False.
        FluxFastError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _opened_lock(path, waits=waits)
    except BlockingIOError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error
    with file:
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)


def lock_of(path: Path) -> Path:
    """Return the file that `locked` takes for a file or folder, alongside it and hidden."""
    return path.with_name(f".{path.name}.lock")


def lock_holder(path: Path) -> str:
    """Return the id of the process that holds a lock, or `unknown` if it has just let it go."""
    try:
        return path.read_text(encoding="utf-8") or "unknown"
    except FileNotFoundError:
        return "unknown"


def _opened_lock(path: Path, *, waits: bool = True) -> IO[str]:
    """Return the locked file; one that its last holder moved meanwhile is created again."""
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(open(path, "a", opener=_open_no_link))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            if _is_at(path, file):
                stack.pop_all()
                return file
            file.close()


def _is_at(path: Path, file: IO[str]) -> bool:
    """Return whether `path` names this file: whoever held the lock before may have moved it."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:  # asking whether it exists first would leave time to remove it
        return False


def _open_no_link(path: str, flags: int) -> int:
    """Open a file; a link, which might lead to a file of somebody else, or a pipe is an error."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def check_writable(path: Path, *, creates_folder: bool = False) -> None:
    """Refuse a path that cannot be written, before an expensive computation of its content.

    Args:
        path: the file that will be written.
        creates_folder: whether the writer creates missing folders.

    Raises:
        FluxFastError: the folder is missing or not writable, or the path is a folder.
    """
    folder = path.absolute().parent
    while creates_folder and not folder.exists():
        folder = folder.parent
    problem = None
    if path.is_dir():
        problem = "it is a folder"
    elif not folder.is_dir():
        problem = f"there is no folder {folder}"
    elif path.exists():
        problem = None if os.access(path, os.W_OK) else "no permission to write it"
    else:
        problem = _why_no_new_file(folder)
    if problem:
        raise FluxFastError(
            "cannot write this file",
            got=f"{path}: {problem}",
            allowed="a file in an existing folder that this user may write",
            remedy="create the folder, or name another file",
        )


def _why_no_new_file(folder: Path) -> str | None:
    """Return why a folder takes no new file, or None; permissions do not tell, as in /proc."""
    try:
        with TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"nothing can be written in {folder}: {error.strerror}"


def checkout() -> Path | None:
    """Return the folder of the checkout that this package is in; None for an installed wheel."""
    folder = PACKAGE.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def required_checkout(purpose: str) -> Path:
    """Return the folder of the checkout.

    Args:
        purpose: what needs the checkout, as `fluxfast selftest`, for the error.

    Raises:
        FluxFastError: fluxfast is installed from a wheel.
    """
    folder = checkout()
    if folder is None:
        raise FluxFastError(
            f"{purpose} needs a checkout of the project",
            got=f"an installed package in {PACKAGE}",
            allowed="fluxfast from a clone, installed with `pip install -e .`",
            remedy="clone the repository, install it from there, and run the command again",
        )
    return folder


def shipped_baselines() -> Path:
    """Return the folder of the project's baselines: the checkout's, else the package's copy."""
    folder = checkout()
    return folder / "baselines" if folder else PACKAGE / "_baselines"


def local_folder() -> Path:
    """Return the folder of files that belong to this machine: baselines, history, results.

    It is `.fluxfast` in the checkout, or in the working directory of an installed package.
    """
    return (checkout() or Path.cwd()) / ".fluxfast"


def git(*arguments: str, folder: Path) -> str:
    """Run git in `folder` and return its output without the final newline.

    Raises:
        FluxFastError: git failed; `got` holds git's own message.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise FluxFastError(
            "git failed",
            got=f"git {' '.join(arguments)} in {folder}: {reason.strip()}",
            allowed="a git repository that this user may read",
            remedy="run the git command by hand and follow git's message",
        ) from error
    return done.stdout.strip()
