"""Fetch the config module that the service generates, and unpack it without trusting it. Needs no protobuf.

Source: the command paltabrain-sdk-download-config of paltabrain_sdk 0.7.2, which unpacked whatever it got. Here a zip
whose names lead out of the folder, that holds links, or that unfolds to more than any config module, is refused before
anything is written; and the folder is put in place whole, or not at all. Prints nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import tempfile
import zipfile
import zlib

import requests

from ...errors import ConfigError, EdgespoolError
from ...outcome import one_line
from .service import SCHEMA_PATH, address, headers

__all__ = ["DownloadError", "download", "fetch", "read_zip", "unpack"]

_TIMEOUT = (10.0, 30.0)  # seconds for a connection, and for each piece of the reply
LARGEST_ZIP = 16 << 20  # bytes; a config module is some hundred KiB
LARGEST_MODULE = 64 << 20  # unpacked
MOST_FILES = 1000
_RESERVED = set('<>:"|?*')  # what Windows does not take in a name, or takes for something else


class DownloadError(EdgespoolError):
    """The config module could not be fetched, or is not safe to unpack. Nothing was changed."""


def download(hostname: str | None, api_key: str | None, directory: str, overwrite: bool = False) -> list[str]:
    """Fetch the config module into a folder, and return the names of its files.

    Args:
        hostname, api_key: of the account.
        directory: made when it is missing.
        overwrite: replace a folder that holds a config module already.

    Raises:
        ConfigError: the host or the key is missing or malformed.
        DownloadError: see there.
    """
    if not hostname:
        raise ConfigError("hostname: give --hostname, or PALTABRAIN_SDK_HOSTNAME")
    if not api_key:
        raise ConfigError("api_key: give --api-key, or PALTABRAIN_SDK_API_KEY")
    _check_target(directory, overwrite)
    files = read_zip(fetch(hostname, api_key))
    unpack(files, directory, overwrite)
    return list(files)


def fetch(hostname: str, api_key: str) -> bytes:
    """Return the zip that the service hands out; raises as `download`."""
    url = address(hostname, SCHEMA_PATH)
    try:
        key = headers(api_key)["X-API-Key"].encode("ascii")
        # Redirects are not followed: requests would take the key along to another host.
        with requests.get(
            url, headers={**headers(api_key), "X-API-Key": key.decode()}, timeout=_TIMEOUT, stream=True,
            allow_redirects=False,
        ) as reply:  # fmt: skip
            if reply.status_code != 200:
                raise DownloadError(f"{url} answered {reply.status_code}: are the hostname and the API key right?")
            content = bytearray()
            for part in reply.iter_content(64 * 1024):
                content += part
                if len(content) > LARGEST_ZIP:
                    raise DownloadError(f"{url} sends more than {LARGEST_ZIP >> 20} MiB: that is no config module")
            return bytes(content)
    except (UnicodeEncodeError, requests.exceptions.InvalidHeader):
        raise ConfigError("api_key: what no HTTP header can hold; a line break at its end?") from None
    except (requests.RequestException, OSError) as error:
        # The innermost words may repeat what was sent; they are not passed on.
        raise DownloadError(f"{url} cannot be reached ({type(error).__name__})") from None


def read_zip(content: bytes) -> dict[str, bytes]:
    """Return a zip's files by name, in the order of the zip; raises DownloadError unless all of it is safe."""
    files: dict[str, bytes] = {}
    left = LARGEST_MODULE
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > MOST_FILES:
                raise DownloadError(f"the zip holds {len(members)} files: that is no config module")
            for member in members:
                name = _safe_name(member)
                if member.is_dir():
                    continue
                if name.lower() in (each.lower() for each in files):
                    raise DownloadError(f"the zip holds {name!r} twice")
                with archive.open(member) as file:
                    data = file.read(left + 1)  # what the zip says of the size may be a lie
                left -= len(data)
                if left < 0:
                    raise DownloadError(f"the zip unfolds to more than {LARGEST_MODULE >> 20} MiB")
                files[name] = data
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise DownloadError(f"what the service sent is no zip that can be read: {one_line(str(error))}") from None
    folders = {name.rsplit("/", depth)[0].lower() for name in files for depth in range(1, name.count("/") + 1)}
    if clash := folders & {name.lower() for name in files}:
        raise DownloadError(f"the zip holds {min(clash)!r} as a file and as a folder")
    if "__init__.py" not in files:
        raise DownloadError("the zip holds no config module: there is no __init__.py in it")
    return files


def _safe_name(member: zipfile.ZipInfo) -> str:
    """Return a member's name; raises DownloadError for one that leads out of the folder, or is no plain file."""
    # The name as it stands in the zip: zipfile cuts one at a NUL, and turns the system's separators.
    name = member.orig_filename
    parts = name.removesuffix("/").split("/")
    bad = any(part in ("", ".", "..") or part != part.rstrip(" .") for part in parts)
    if bad or "\\" in name or not name.isprintable() or _RESERVED & set(name) or len(name) > 500:
        raise DownloadError(f"the zip holds a file {one_line(name)!r}: refused, it could lead out of the folder")
    mode = member.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DownloadError(f"the zip holds {name!r}, a link or a device: refused")
    return name


def _check_target(directory: str, overwrite: bool) -> None:
    if not os.path.lexists(directory):
        return
    if not os.path.isdir(directory):
        raise DownloadError(f"{directory} exists, and is no folder")
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise DownloadError(f"{directory} cannot be read: {error.strerror}") from error
    if names and not overwrite:
        raise DownloadError(f"{directory} is not empty; use --overwrite to replace it")
    if names and "__init__.py" not in names:
        raise DownloadError(f"{directory} holds no config module (no __init__.py): it is not overwritten")


def unpack(files: dict[str, bytes], directory: str, overwrite: bool = False) -> None:
    """Write a module's files into a folder that takes the place of the old one at once; raises DownloadError."""
    _check_target(directory, overwrite)
    target = os.path.realpath(directory)
    parent = os.path.dirname(target)
    try:
        os.makedirs(parent, exist_ok=True)
        work = tempfile.mkdtemp(prefix=f".{os.path.basename(target)}-", dir=parent)
        try:
            new, old = os.path.join(work, "new"), os.path.join(work, "old")
            os.mkdir(new, 0o755)
            for name, content in files.items():
                path = os.path.join(new, *name.split("/"))
                os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
                with open(path, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            if os.path.lexists(target):
                os.rename(target, old)
            try:
                os.rename(new, target)
            except OSError:
                if os.path.lexists(old):
                    os.rename(old, target)
                raise
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(work)
    except OSError as error:
        raise DownloadError(f"{directory} cannot be written: {error.strerror or error}") from error
