"""Files that the viewer's browser fetches from this server instead of from a CDN.

Streamlit serves ``static/`` beside app.py at ``app/static/``. The borders in it are committed;
Leaflet, its marker clusters and jQuery are copied from their wheels when the app starts, into a
folder named after their versions, so that a newer wheel is never hidden by an older copy.
"""

import hashlib
import os
import shutil
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

STATIC = Path(__file__).resolve().parent.parent / "static"

FROM_PAGE = "app/static"
"""The address of ``static/`` as seen from a page."""

FROM_COMPONENT = "../../app/static"
"""The same, seen from a component's frame (component/NAME/index.html); right behind a proxy too."""

_WHEELS = {
    "leaflet": "XStatic-Leaflet",
    "leaflet_markercluster": "XStatic-Leaflet-MarkerCluster",
    "jquery": "XStatic-jQuery",
}
_FILES = {
    "leaflet": ("leaflet.js", "leaflet.css", "images/layers.png", "images/layers-2x.png"),
    "leaflet_markercluster": (
        "leaflet.markercluster.js",
        "MarkerCluster.css",
        "MarkerCluster.Default.css",
    ),
    "jquery": ("jquery.min.js",),
}


def vendor_folder(package: str) -> str:
    """Folder of a vendored package below ``static/``, for example "vendor/leaflet-1.9.3.0".

    Raises:
        RuntimeError: if its wheel is not installed.
    """
    wheel = _WHEELS[package]
    try:
        return f"vendor/{package}-{version(wheel)}"
    except PackageNotFoundError as error:
        raise RuntimeError(
            f"The maps need the package {wheel}: run `pip install -r requirements.txt`."
        ) from error


def from_component(path: str) -> str:
    """Address of a file below ``static/`` for a component's frame.

    A file of the project's own carries a digest of its content, so that a browser that kept an old
    copy fetches the new one; vendored ones have their version in the folder's name.
    """
    address = f"{FROM_COMPONENT}/{path}"
    return address if path.startswith("vendor/") else f"{address}?{_digest(path)}"


@cache
def _digest(path: str) -> str:
    return hashlib.sha256((STATIC / path).read_bytes()).hexdigest()[:12]


def install_vendor_files(static: Path = STATIC) -> list[Path]:
    """Copy what is missing of Leaflet and its companions to ``static/vendor``.

    Each package arrives by one rename, so that several servers may start at once and a browser
    never meets half a copy. A complete copy is left alone.

    Returns:
        The folders, one a package.

    Raises:
        RuntimeError: if a wheel is missing, or if the folder cannot be written.
    """
    folders = []
    for package, names in _FILES.items():
        target = static / vendor_folder(package)
        if not all((target / name).is_file() for name in names):
            try:
                _copy(package, names, target)
            except OSError as error:
                raise RuntimeError(
                    f"Cannot copy {package} to {target} ({error}): let the user who runs the app "
                    "write to that folder, or copy it there once by hand."
                ) from error
        folders.append(target)
    return folders


def _copy(package: str, names: tuple[str, ...], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = files(f"xstatic.pkg.{package}") / "data"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{package}-") as temporary:
        fresh = Path(temporary) / package
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes((source / name).read_bytes())
        if target.exists():  # an incomplete copy, left by a version that copied other files
            shutil.rmtree(target, ignore_errors=True)
        try:
            os.replace(fresh, target)
        except OSError:
            # Another server was quicker: its copy is as good as this one.
            if not all((target / name).is_file() for name in names):
                raise
