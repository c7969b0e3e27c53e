"""Trees to layers: gzipped tar files that are the same for the same tree.

Entries come in the order of their names, or of the tar file that they are from. Trees of ours get no times and belong
to root; a root file system keeps both, because bytecode in it may be valid for a file's time only. Devices are left
out: whatever runs a container brings its own. Compression is zlib's: another release of it may give other bytes, and so
another digest, for the same content.
"""

import gzip
import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

Entry = tuple[tarfile.TarInfo, BinaryIO | IO[bytes] | None]
"""A member and its content, which is read at once."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is a blob, e.g. `Layer("sha256:ab…", "sha256:cd…", 10240, 40960, "the base")`."""

    digest: str
    """Of the compressed file."""
    diff_id: str
    """Of the tar file in it."""
    size: int
    """Bytes, compressed."""
    unpacked: int
    """Bytes of the tar file."""
    comment: str
    """What it is, for a person."""


class _Hashed:
    """A file that is only written, and knows the digest of all of it."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def write(entries: Iterable[Entry], blobs: Path, comment: str) -> Layer:
    """Store a layer of `entries` in the folder `blobs`, under its digest."""
    partial = blobs / "partial"
    with partial.open("wb") as file:
        packed = _Hashed(file)
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as squeezed:
            plain = _Hashed(squeezed)
            with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                for member, content in entries:
                    tar.addfile(member, content)
    layer = Layer(packed.digest, plain.digest, packed.size, plain.size, comment)
    partial.rename(blobs / layer.digest.removeprefix("sha256:"))
    return layer


def of_folder(folder: Path, *, as_it_is: bool = False) -> Iterator[Entry]:
    """All below `folder`: with its own owners and times, or without times and root's."""
    first: dict[tuple[int, int], str] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name, status = path.relative_to(folder).as_posix(), path.lstat()
        member = _member(name, status.st_mode & 0o7777)
        if as_it_is:
            member.uid, member.gid, member.mtime = status.st_uid, status.st_gid, int(status.st_mtime)
        if path.is_symlink():
            member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
        elif path.is_dir():
            member.type = tarfile.DIRTYPE
        elif not path.is_file():
            continue
        elif (linked := first.setdefault((status.st_dev, status.st_ino), name)) != name:
            member.type, member.linkname = tarfile.LNKTYPE, linked
        else:
            member.size = status.st_size
            with path.open("rb") as content:
                yield member, content
            continue
        yield member, None


def of_tar(path: Path) -> Iterator[Entry]:
    """All in the tar file, in its order, with its own owners and times."""
    with tarfile.open(path) as tar:
        for one in tar:
            if one.isdev() or one.name == ".":
                continue
            member = _member(_name(one.name), one.mode)
            member.type, member.size, member.linkname = one.type, one.size, one.linkname
            member.uid, member.gid, member.mtime = one.uid, one.gid, int(one.mtime)
            if one.islnk():
                member.linkname, member.size = _name(one.linkname), 0
            yield member, tar.extractfile(one) if one.isreg() else None


def _member(name: str, mode: int) -> tarfile.TarInfo:
    """Without names of owners, which differ from machine to machine."""
    member = tarfile.TarInfo(name)
    member.mode, member.mtime, member.uname, member.gname = mode, 0, "", ""
    return member


def _name(name: str) -> str:
    return name.removeprefix("./")
