"""What `pip install` gets: the library with its models and resources, and nothing else."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, so that the build leaves nothing in it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "app.py"):
        shutil.copy(ROOT / name, copy)
    for name in ("geoclip_core", "train", "ui", "pages", "scripts", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=copy, check=True, capture_output=True
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        entry_points = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
        return (
            {name: archive.getinfo(name).file_size for name in archive.namelist()},
            archive.read(entry_points).decode(),
        )


def test_wheel_holds_the_library_and_nothing_else(wheel):
    sizes, _ = wheel
    assert {name.partition("/")[0].partition("-")[0] for name in sizes} == {"geoclip_core"}
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("geoclip_core/**/*.py")}
    assert modules <= sizes.keys()
    assert "geoclip_core/py.typed" in sizes


@pytest.mark.parametrize("folder", ["checkpoints", "earth/resources"])
def test_wheel_holds_every_model_and_resource(wheel, folder):
    sizes, _ = wheel
    found = [path for path in (ROOT / "geoclip_core" / folder).rglob("*") if path.is_file()]
    assert found
    for path in found:
        assert sizes[path.relative_to(ROOT).as_posix()] == path.stat().st_size


def test_wheel_installs_the_command(wheel):
    _, entry_points = wheel
    assert "geoclip = geoclip_core.__main__:main" in entry_points


def test_pinned_versions_meet_the_declared_dependencies():
    """Every dependency has a pin, and its declared range allows it."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("#")[0].strip().split("==") for line in lines if "==" in line)
    pins = {_normalised(name): version for name, version in pins.items()}
    extras = PROJECT["optional-dependencies"]
    needed = map(Requirement, PROJECT["dependencies"] + extras["app"] + extras["train"])
    wanted = {_normalised(one.name): one.specifier for one in needed}
    wanted.pop("geoclip-core")
    for name, specifier in wanted.items():
        assert name in pins, f"requirements.txt lacks {name}"
        assert specifier.contains(pins[name]), f"{name} {pins[name]} is not {specifier}"


def _normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()
