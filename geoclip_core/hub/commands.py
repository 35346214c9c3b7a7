"""``python -m geoclip_core models | download | push``."""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from geoclip_core.errors import DownloadError
from geoclip_core.files import CACHE_VARIABLE, cache_folders, readable


def add_parsers(commands: Any) -> None:
    """Add the three commands to the subparsers of ``python -m geoclip_core``."""
    models = commands.add_parser("models", help="list the models that are here and can be had")
    models.add_argument("--format", choices=("text", "json"), default="text")
    _add_cache(models)
    models.set_defaults(run=run_models)

    fetch = commands.add_parser("download", help="fetch a model once, to be used offline")
    fetch.add_argument("name", help="a name from `models`, or any user/name on the hub")
    fetch.add_argument("--yes", "-y", action="store_true", help="do not ask before a download")
    fetch.add_argument("--force", action="store_true", help="fetch again what is there already")
    fetch.add_argument("--offline", action="store_true", help="do not touch the network")
    fetch.add_argument("--revision", help="branch, tag or commit on the hub")
    fetch.add_argument("--wheel", type=Path, help="geoclip: its wheel, fetched elsewhere")
    fetch.add_argument("--image-tower", type=Path, help="geoclip: a local folder of CLIP ViT-L/14")
    _add_cache(fetch)
    fetch.set_defaults(run=run_download)

    push = commands.add_parser("push", help="upload a checkpoint with its model card to a hub")
    push.add_argument("checkpoint", type=Path, help="a checkpoint or run folder")
    push.add_argument("repository", help="user/name on the hub")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--license", help="the hub's short name of a licence, for the card")
    push.set_defaults(run=run_push)


def run_models(arguments: argparse.Namespace) -> int:
    """List bundled, downloaded and downloadable models."""
    rows = model_rows(arguments.cache_dir)
    if arguments.format == "json":
        print("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        return 0
    for kind, title in (("model", "Models"), ("backbone", "Backbones, to train heads on")):
        print(f"{title}:")
        for row in (row for row in rows if row["kind"] == kind):
            size = readable(row["bytes"]) if row["bytes"] else ""
            print(f"  {row['name']:<32} {row['state']:<12} {size:>8}  {row['licence'] or '?'}")
            print(f"      {row['good_for']}")
    folders = cache_folders(arguments.cache_dir)
    print(f"\nDownloads are kept in {folders.models} (another place: {CACHE_VARIABLE}).")
    print("Any repository user/name on the hub with safetensors weights can be downloaded as well.")
    return 0


def model_rows(root: Path | str | None = None) -> list[dict[str, Any]]:
    """Name, kind, state, bytes, licence, good_for and folder of everything there is to choose."""
    from geoclip_core.hub.catalogue import CATALOGUE, catalogue_entry, installed_models
    from geoclip_core.hub.models import BUNDLED, bundled_models

    rows = []
    for name in bundled_models():
        size = sum(f.stat().st_size for f in (BUNDLED / name).rglob("*") if f.is_file())
        licence, purpose = _card_facts(BUNDLED / name)
        rows.append(_row(name, "model", "bundled", size, licence, purpose))
        rows[-1]["folder"] = str(BUNDLED / name)
    here = installed_models(root)
    for item in here:
        entry = catalogue_entry(item.name)
        kind = "backbone" if item.kind == "backbone" else "model"
        licence, purpose = _card_facts(item.folder)
        licence, purpose = item.licence or licence, entry.good_for if entry else purpose
        rows.append(_row(item.name, kind, "downloaded", item.bytes, licence, purpose))
        rows[-1]["folder"] = str(item.folder)
    names = {item.name for item in here}
    for entry in CATALOGUE:
        if entry.name not in names:
            rows.append(
                _row(
                    entry.name,
                    entry.kind,
                    "to be had",
                    entry.bytes,
                    entry.licence,
                    entry.good_for,
                )
            )
    return rows


def run_download(arguments: argparse.Namespace) -> int:
    """Fetch a model, after saying what it weighs and under which licence it is."""
    from geoclip_core.hub.catalogue import GEOCLIP, folder_name, installed_model
    from geoclip_core.hub.download import DownloadStatus, StatusWriter, download

    name, root = arguments.name, arguments.cache_dir
    folder_name(name)
    present = installed_model(name, root)
    if present is not None and not arguments.force:
        print(f"{name} is already there: {present.folder} ({readable(present.bytes)})")
        return 0
    print(_announcement(name, arguments))
    if not arguments.yes and sys.stdin.isatty() and not _agreed():
        print("nothing was downloaded")
        return 1
    status = StatusWriter(name, root)
    show = _progress_printer()

    def progress(what: str, done: int, total: int | None) -> None:
        status.progress(what, done, total)
        show(what, done, total)

    try:
        item = download(
            name,
            root=root,
            offline=arguments.offline,
            revision=arguments.revision,
            wheel=arguments.wheel,
            image_tower=arguments.image_tower,
            force=arguments.force,
            progress=progress,
        )
        if name == GEOCLIP:
            _prepare_gallery(item.folder, root, progress)
    except BaseException as error:
        reason = str(error) if isinstance(error, DownloadError) else type(error).__name__
        status.write(DownloadStatus("failed", error=reason))
        raise
    finally:
        print(file=sys.stderr)
    status.write(DownloadStatus("finished", what=name))
    print(f"{name} is ready: {item.folder} ({readable(item.bytes)}, licence {item.licence or '?'})")
    if root is not None:
        print(f"to use it from there, set {CACHE_VARIABLE}={root}")
    return 0


def run_push(arguments: argparse.Namespace) -> int:
    """Upload a checkpoint."""
    from geoclip_core.hub.models import push

    address = push(
        arguments.checkpoint,
        arguments.repository,
        private=arguments.private,
        licence=arguments.license,
    )
    print(f"pushed: {address}")
    print(f'load it anywhere with Geolocator.load("{arguments.repository}")')
    return 0


def _announcement(name: str, arguments: argparse.Namespace) -> str:
    from geoclip_core.hub.catalogue import TOWER_BYTES, catalogue_entry

    entry = catalogue_entry(name)
    where = cache_folders(arguments.cache_dir).models
    if entry is None:
        return f"{name}: size and licence as its page on the hub says; to {where}"
    size = entry.bytes if arguments.image_tower is None else entry.bytes - TOWER_BYTES
    return f"{name}: about {readable(size)}, licence {entry.licence}; to {where}"


def _agreed() -> bool:
    return input("Download it? [Y/n] ").strip().lower() in ("", "y", "yes")


def _prepare_gallery(
    folder: Path, root: Path | None, progress: Callable[[str, int, int | None], None]
) -> None:
    """Encode the gallery now, so that the first photo does not wait for it."""
    from geoclip_core.geoclip.gallery import open_gallery
    from geoclip_core.geoclip.weights import read_release

    release = read_release(folder)
    open_gallery(
        release.location_encoder,
        release.coordinates,
        cache_folders(root).galleries,
        lambda done, total: progress("encoding the gallery, places", done, total),
    )


def _progress_printer() -> Callable[[str, int, int | None], None]:
    """Prints at most ten times a second on a terminal, every tenth part elsewhere."""
    last = {"time": 0.0, "what": "", "tenth": -1}
    live = sys.stderr.isatty()

    def show(what: str, done: int, total: int | None) -> None:
        share = done / total if total else 0.0
        amount = readable(done) if "places" not in what else f"{done:,}"
        text = f"{what}: {amount}" + (f" ({share:.0%})" if total else "")
        now = time.monotonic()
        if live and (now - last["time"] > 0.1 or done == total):
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            last["time"] = now
        elif not live and (last["what"], last["tenth"]) != (what, int(share * 10)):
            print(text, file=sys.stderr, flush=True)
            last["what"], last["tenth"] = what, int(share * 10)

    return show


def _card_facts(folder: Path) -> tuple[str | None, str]:
    """Licence and first sentence of a model card, where it says them."""
    card = folder / "README.md"
    if not card.is_file():
        return None, ""
    text = card.read_text(encoding="utf-8", errors="replace")
    licence = re.search(r"(?im)^\W*licen[cs]e\W*:\W*(.+?)\W*$", text)
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    prose = (line.strip() for line in text.splitlines() if not line.startswith(("#", "|", "-")))
    return licence[1] if licence else None, next((line for line in prose if line), "")[:200]


def _row(
    name: str, kind: str, state: str, size: int, licence: str | None, good_for: str
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "state": state,
        "bytes": size,
        "licence": licence,
        "good_for": good_for,
    }


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-dir",
        type=Path,
        help=f"folder of the downloads (default: {CACHE_VARIABLE} or the platform's cache)",
    )
