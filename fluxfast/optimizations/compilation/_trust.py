"""Check that an exported package may be loaded: it is native code. No torch.

Whoever can write the folder of a package decides what runs, and can replace package and manifest
together. So the folder and its files must belong to this user, and nobody else may write there.
"""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

from fluxfast.errors import ArtifactError

CODE = "data/aotinductor/model"  # the folder in an archive with the library and its kernels
# Other members: the format, in plain text. PyTorch would unpickle weights, constants and inputs.
FORMAT = {
    *("archive_format", "archive_version", "byteorder"),
    *(".data/version", ".data/serialization_id"),
}


def check_owner(folder: Path) -> None:
    """Check that a folder and its files belong to this user, and that others cannot write.

    Members of the group may write: groups are given out by the administrator.

    Raises:
        ArtifactError: they do not, or others can.
    """
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    for path in (folder, *files):
        status = path.lstat()
        problem = ""
        if status.st_uid not in (os.getuid(), 0):
            problem = f"it belongs to user {status.st_uid}"
        elif stat.S_ISLNK(status.st_mode):
            problem = "it is a link"
        elif path != folder and not stat.S_ISREG(status.st_mode):
            problem = "it is no ordinary file"
        elif status.st_mode & stat.S_IWOTH:
            problem = f"everybody can write it (mode {stat.S_IMODE(status.st_mode):o})"
        if problem:
            raise ArtifactError(
                "another user could have changed this exported package, which is native code",
                got=f"{path}: {problem}",
                allowed=f"a folder and files of user {os.getuid()} that others cannot write",
                remedy=f"export again into a folder of your own, or after `chmod -R o-w {folder}` "
                "if you trust everybody who could write there",
            )


def check_members(package: Path) -> None:
    """Check that a package contains one library and no member that PyTorch would unpickle.

    Raises:
        ArtifactError: it is no archive, or has other members.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _foreign(package, str(error)) from error
    inner = [PurePosixPath(*name.parts[1:]) for name in names]  # below the archive's own folder
    foreign = [
        str(name)
        for name, member in zip(names, inner, strict=True)
        if str(member) not in FORMAT and str(member.parent) != CODE
    ]
    if foreign:
        raise _foreign(package, ", ".join(foreign[:3]))
    libraries = [member.name for member in inner if member.suffix == ".so"]
    if len(libraries) != 1:
        raise _foreign(package, f"{len(libraries)} libraries {', '.join(libraries[:3])}".strip())


def _foreign(package: Path, got: str) -> ArtifactError:
    return ArtifactError(
        "an exported package does not contain what an export writes",
        got=f"{package}: {got}",
        allowed=f"one library with its kernels in {CODE}",
        remedy="export again (leave --use-cached-model out)",
    )
