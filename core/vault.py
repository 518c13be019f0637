"""A folder as one file that can be carried away: packed, encrypted with age, checked, unpacked.

tar, compressed with zstd, encrypted with age (https://age-encryption.org; without a key, the plain
.tar.zst). Everything is streamed: memory does not grow with the folder. The first member says what
the archive is, the last has the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import pyarrow as pa
import pyrage

VARIABLE = "PERENNIAL_BACKUP_KEY"
_ABOUT, _SUMS = "backup.json", "checksums.json"
_CHUNK = 1 << 20


class VaultError(RuntimeError):
    """An archive that cannot be written or used; nothing was changed, the message says why."""


def recipient() -> pyrage.x25519.Recipient | None:
    """For whom backups are encrypted: the public key, or that of the secret key, in VARIABLE."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        if text.upper().startswith("AGE-SECRET-KEY-"):
            return pyrage.x25519.Identity.from_str(text).to_public()
        return pyrage.x25519.Recipient.from_str(text)
    except (pyrage.IdentityError, pyrage.RecipientError) as error:
        raise VaultError(_not_a_key(error)) from error


def identity() -> pyrage.x25519.Identity:
    """The secret key in VARIABLE, which alone opens a backup."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text.upper().startswith("AGE-SECRET-KEY-"):
        raise VaultError(
            f"the backup is encrypted: set {VARIABLE} to the secret key (AGE-SECRET-KEY-...) of "
            "the public key that it was made with"
        )
    try:
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError as error:
        raise VaultError(_not_a_key(error)) from error


def _not_a_key(error: Exception) -> str:
    return f"{VARIABLE} is no age key (age1... or AGE-SECRET-KEY-1...): {error}"


def write(
    folder: Path,
    archive: Path,
    about: dict[str, Any],
    key: pyrage.x25519.Recipient | None,
    leave_out: Sequence[str] = (),
) -> int:
    """Pack `folder` but for its entries `leave_out` into `archive`; returns the number of files.

    The archive gets its name only when it was written, read back and found equal to what was read;
    whatever happens before leaves no file. Nobody else may write in the folder meanwhile.
    """
    draft = archive.with_name(f".{archive.name}.partial")
    # a key of this moment's, known to nobody afterwards, reads the archive back
    own = pyrage.x25519.Identity.generate()
    keys = [key, own.to_public()] if key else []
    try:
        with TemporaryDirectory(prefix=".backup-", dir=folder) as scratch:
            sums = _pack(folder, draft, about, keys, {*leave_out, Path(scratch).name}, scratch)
        if _examine(draft, own if key else None) != sums:
            raise VaultError(f"{archive} does not read back as it was written: is the disk sound?")
        draft.replace(archive)
    except (OSError, tarfile.TarError, sqlite3.Error, pyrage.EncryptError) as error:
        raise VaultError(f"no backup was written to {archive}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return len(sums)


def read_about(archive: Path, key: pyrage.x25519.Identity | None) -> dict[str, Any]:
    """What the archive says of itself; quick, nothing else is read."""
    with closing(_members(archive, key)) as members:
        member, content = next(members, (None, None))
        if member and content and member.name == _ABOUT:
            return json.load(content)
    raise VaultError(f"{archive} is not a backup of perennial")


def unpack(archive: Path, into: Path, key: pyrage.x25519.Identity | None) -> int:
    """Unpack into the new folder `into`, with every file checked; returns the number of files.

    Raises VaultError when a single byte is not as it was; `into` then holds nothing to be used.
    """
    into.mkdir()
    found, said = {}, None
    for member, content in _members(archive, key, into):
        if member.name == _SUMS and content:
            said = json.load(content)
        elif member.name != _ABOUT and member.isreg():
            with (into / member.name).open("rb") as file:
                found[member.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if found != said:
        raise VaultError(f"{archive} is damaged: its files are not those that were packed")
    return len(found)


def is_encrypted(archive: Path) -> bool:
    """Whether a key is needed, by the first bytes."""
    with archive.open("rb") as file:
        return file.read(14) == b"age-encryption"


# ---- packing


def _pack(
    folder: Path,
    draft: Path,
    about: dict[str, Any],
    keys: list[pyrage.x25519.Recipient],
    leave_out: set[str],
    scratch: str,
) -> dict[str, str]:
    sums: dict[str, str] = {}
    with draft.open("wb") as out:
        draft.chmod(0o600)
        with (
            _encrypting(out, keys) as sink,
            pa.CompressedOutputStream(pa.PythonFile(sink, "w"), "zstd") as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add_json(tar, _ABOUT, about)
            for path in _entries(folder, leave_out):
                _add(tar, folder, path, sums, Path(scratch))
            _add_json(tar, _SUMS, sums)
        out.flush()
        os.fsync(out.fileno())
    return sums


def _entries(folder: Path, leave_out: set[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name not in leave_out:
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _entries(path, set())


def _add(
    tar: tarfile.TarFile, folder: Path, path: Path, sums: dict[str, str], scratch: Path
) -> None:
    database, _, kind = path.name.rpartition("-")
    if kind in ("wal", "shm", "journal") and _is_sqlite(path.with_name(database)):
        return  # what is in these is in the copy that SQLite makes of its file
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise VaultError(f"{path} is a link to a place outside, whose files no backup would hold")
    name = str(path.relative_to(folder))
    info = tar.gettarinfo(path, name)
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    if not info.isreg():
        tar.addfile(info)  # a folder, or a second name of a file that is in the archive already
        return
    with (_sqlite_copy(path, scratch) if _is_sqlite(path) else path).open("rb") as file:
        info.size = os.fstat(file.fileno()).st_size
        read = _Hashing(file)
        tar.addfile(info, read)  # type: ignore[arg-type]
    sums[name] = read.digest.hexdigest()


def _add_json(tar: tarfile.TarFile, name: str, content: Any) -> None:
    data = json.dumps(content, sort_keys=True).encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


class _Hashing:
    """A file that remembers the digest of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _sqlite_copy(path: Path, scratch: Path) -> Path:
    """A copy as of one moment, even while somebody (an MLflow page) writes in the file."""
    copy = scratch / "copy.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


# ---- unpacking


def _examine(archive: Path, key: pyrage.x25519.Identity | None) -> dict[str, str]:
    """The digests of all files, as they come out of the archive; nothing is written."""
    found, said = {}, None
    for member, content in _members(archive, key):
        if member.name == _SUMS and content:
            said = json.load(content)
        elif member.name != _ABOUT and content:
            found[member.name] = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    return found if found == said else {}


def _members(
    archive: Path, key: pyrage.x25519.Identity | None, into: Path | None = None
) -> Generator[tuple[tarfile.TarInfo, IO[bytes] | None], None, None]:
    """Each member with its content, or unpacked below `into`; VaultError when it cannot be read."""
    try:
        with (
            archive.open("rb") as file,
            _decrypting(file, key) as source,
            pa.CompressedInputStream(pa.PythonFile(source, "r"), "zstd") as packed,
        ):
            with tarfile.open(fileobj=packed, mode="r|") as tar:
                for member in tar:
                    inside = member.name in (_ABOUT, _SUMS)
                    if into and not inside:
                        tar.extract(member, into, filter="data")
                    read = inside or (member.isreg() and not into)
                    yield member, tar.extractfile(member) if read else None
            while packed.read(_CHUNK):  # to the last byte, which age vouches for too
                pass
    except pyrage.DecryptError as error:
        raise VaultError(f"{archive} cannot be opened with this key: {error}") from error
    except (OSError, EOFError, tarfile.TarError, ValueError, pa.ArrowException) as error:
        raise VaultError(f"{archive} cannot be read to its end: {error}") from error


# ---- age reads from one file and writes to another: a pipe lets it stand in between


@contextmanager
def _encrypting(out: IO[bytes], keys: list[pyrage.x25519.Recipient]) -> Iterator[IO[bytes]]:
    reader, writer = _pipe()

    def work() -> None:
        if keys:
            pyrage.encrypt_io(reader, out, keys)
        else:
            shutil.copyfileobj(reader, out)

    with _worker(work, reader), writer:
        yield writer


@contextmanager
def _decrypting(file: IO[bytes], key: pyrage.x25519.Identity | None) -> Iterator[IO[bytes]]:
    reader, writer = _pipe()

    def work() -> None:
        if key:
            pyrage.decrypt_io(file, writer, [key])
        else:
            shutil.copyfileobj(file, writer)

    with _worker(work, writer), reader:
        yield reader


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    read, write = os.pipe()
    return os.fdopen(read, "rb"), os.fdopen(write, "wb")


@contextmanager
def _worker(work: Callable[[], None], end: IO[bytes]) -> Iterator[None]:
    """`work` in a thread that closes its end of the pipe; its error comes before any other."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            with suppress(OSError):
                end.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    except GeneratorExit:
        thread.join()
        raise
    except BaseException as error:
        thread.join()
        raise (errors or [error])[0] from None
    thread.join()
    if errors:
        raise errors[0]
