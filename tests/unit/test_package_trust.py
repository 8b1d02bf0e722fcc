"""Exported packages are native code: whose they may be, and what they may contain."""

import os
import zipfile

import pytest

from fluxfast.errors import ArtifactError
from fluxfast.optimizations.compilation import _manifest as manifest
from fluxfast.optimizations.compilation import export_aoti
from fluxfast.optimizations.compilation._trust import check_members, check_owner

CODE = "model/data/aotinductor/model"
WRITTEN = (
    *(f"{CODE}/{name}" for name in ("a.wrapper.cpp", "a.kernel_metadata.json", "a.so", "b.cubin")),
    *(f"model/{name}" for name in ("archive_format", "byteorder", ".data/version")),
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "cache" / "transformer.pt2").touch(mode=0o644)
    return tmp_path / "cache"


def test_a_folder_of_this_user_is_accepted_and_one_that_all_can_write_is_not(folder):
    check_owner(folder)
    for path, mode, problem in (
        (folder, 0o777, "everybody can write it (mode 777)"),
        (folder / "transformer.pt2", 0o666, "everybody can write it (mode 666)"),
    ):
        before = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(ArtifactError, match="another user could have changed") as error:
            check_owner(folder)
        assert error.value.got == f"{path}: {problem}"
        path.chmod(before)
    (folder / "decoder.pt2").symlink_to(folder / "transformer.pt2")
    with pytest.raises(ArtifactError, match="it is a link"):
        check_owner(folder)


def test_a_file_of_another_user_is_refused(folder, monkeypatch):
    path = folder / "transformer.pt2"
    if os.getuid():
        monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    else:
        os.chown(path, 4242, -1)
    with pytest.raises(ArtifactError, match=f"it belongs to user {path.stat().st_uid}"):
        check_owner(folder)


def archive(tmp_path, names):
    path = tmp_path / "package.pt2"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "content")
    return path


def test_the_members_that_an_export_writes_are_accepted(tmp_path):
    check_members(archive(tmp_path, WRITTEN))


@pytest.mark.parametrize(
    "member",
    [
        f"{CODE}/another.so",
        f"{CODE}/../../../../outside.so",
        f"{CODE}/folder/b.cubin",
        "model/data/weights/model_weights_config.json",
        "model/data/constants/tensor_0",
        "model/data/sample_inputs/model.pt",
        "model/models/model.json",
    ],
)
def test_another_library_or_a_pickle_is_refused(member, tmp_path):
    with pytest.raises(ArtifactError, match="does not contain what an export writes"):
        check_members(archive(tmp_path, (*WRITTEN, member)))


def test_what_is_no_archive_or_has_no_library_is_refused(tmp_path):
    path = tmp_path / "package.pt2"
    path.write_bytes(b"no archive")
    for package in (path, tmp_path / "missing.pt2", archive(tmp_path, WRITTEN[4:])):
        with pytest.raises(ArtifactError, match="does not contain what an export writes"):
            check_members(package)


@pytest.mark.parametrize("sign", ["a new manifest", "a lock", None])
def test_a_package_that_is_replaced_while_it_is_read_is_read_again(folder, sign, monkeypatch):
    """Without a sign of another process at work it is damaged."""
    reads = []

    def loaded(modules, cached, description):
        reads.append((folder / export_aoti.LOCK).exists())
        if len(reads) > 1:
            return {"transformer": "new"}
        if sign == "a new manifest":
            (folder / manifest.FILE).write_text("{}")
        if sign == "a lock":  # the package is there, its manifest is not yet
            (folder / export_aoti.LOCK).touch()
        raise ArtifactError("damaged", got="", allowed="", remedy="")

    monkeypatch.setattr(export_aoti, "_loaded", loaded)
    if sign:
        assert export_aoti._cached({}, folder, {}) == {"transformer": "new"}
        assert reads == [False, True]
    else:
        with pytest.raises(ArtifactError):
            export_aoti._cached({}, folder, {})
        assert reads == [False]
