"""A repository on a model hub: which of its files we want, and where they are.

The host is the one that `huggingface_hub` is set up for (`HF_ENDPOINT`), the token the one that it
keeps. Only safetensors, JSON and text are ever taken: neither pickles nor code.
"""

import json
import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from geoclip_core.hub.placement import DownloadError
from geoclip_core.hub.transfer import RemoteFile, read_small

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TEXTS = {".json", ".txt", ".csv", ".model"}
_CARDS = {"readme.md", "license", "license.txt", "license.md", "notice"}
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_FOLDERS = {"", "image_tower"}


@dataclass(frozen=True)
class Repository:
    """What a hub says of one commit of a repository."""

    name: str
    commit: str
    licence: str | None
    files: tuple[RemoteFile, ...]
    """The files that a model needs, and no others."""

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size or 0 for file in self.files)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a repository: "user/name"."""
    return _ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def hub_endpoint() -> str:
    """Address of the hub, without a slash at the end."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def find_repository(name: str, revision: str | None = None) -> Repository:
    """Ask the hub for a repository's files.

    Args:
        name: "user/name".
        revision: branch, tag or commit; None: the main branch.

    Raises:
        DownloadError: no network, no such repository, or nothing in it that may be loaded.
    """
    if not is_hub_id(name):
        raise DownloadError(f'{name!r} is no repository: they are written "user/name"')
    endpoint, headers = hub_endpoint(), _headers()
    branch = urllib.parse.quote(revision or "main", safe="")
    url = f"{endpoint}/api/models/{name}/revision/{branch}?blobs=true"
    try:
        answer: Any = json.loads(read_small(url, headers, name))
        commit, siblings = str(answer["sha"]), list(answer["siblings"])
        base = f"{endpoint}/{name}/resolve/{commit}"
        wanted = [item for item in siblings if _is_wanted(str(item["rfilename"]))]
        files = [_remote_file(item, base, headers) for item in wanted]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"the hub's answer about {name} cannot be read: {error}") from error
    names = {file.name for file in files}
    if "config.json" not in names or not any(_WEIGHTS.fullmatch(file) for file in names):
        pickled = any(str(item["rfilename"]).endswith((".bin", ".pt", ".pth")) for item in siblings)
        raise DownloadError(
            f"{name} holds no config.json with safetensors weights"
            + (", only pickled ones, which can run code and are not read" if pickled else "")
        )
    card = answer.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    return Repository(name, commit, str(licence) if licence else None, tuple(files))


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    folder = "" if str(path.parent) == "." else str(path.parent)
    if folder not in _FOLDERS:
        return False
    if path.suffix == ".safetensors":
        return _WEIGHTS.fullmatch(path.name) is not None
    return path.suffix in _TEXTS or path.name.lower() in _CARDS


def _remote_file(item: dict[str, Any], base: str, headers: dict[str, str]) -> RemoteFile:
    name, large = str(item["rfilename"]), item.get("lfs") or {}
    size = large.get("size", item.get("size"))
    return RemoteFile(
        name,
        f"{base}/{urllib.parse.quote(name)}",
        size=int(size) if size is not None else None,
        sha256=large.get("sha256"),
        git_blob=None if large else item.get("blobId"),
        headers=headers,
    )


def _headers() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}
