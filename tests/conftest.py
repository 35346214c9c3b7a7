"""Settings of every test process."""

import os
import shutil
import tempfile
from collections import Counter

import pytest
from filelock import FileLock
from hypothesis import settings

# Tests run side by side: torch with a thread for every core in each of them would be far slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A cache for all processes of this run, not the developer's: what one exports, the others use.
OWN_CACHE = None
if "GEOCLIP_CACHE" not in os.environ:
    OWN_CACHE = os.environ["GEOCLIP_CACHE"] = tempfile.mkdtemp(prefix="geoclip-tests-")


def pytest_unconfigure():
    if OWN_CACHE:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)


# The same examples in every run: what fails here fails again. To look for new ones:
# pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
    """Put slow files first: one that begins last would run alone while the other workers wait."""
    slow = Counter()
    for item in items:
        slow[item.path] += 10 * bool(item.get_closest_marker("browser"))
        slow[item.path] += bool(item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """``made_once(name, make)`` returns a folder that ``make(folder)`` made once for all processes.

    Tests only read it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder in the one of the session
        root = root.parent

    def made(name, make):
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def large_tables(made_once):
    """A demo set of 119,008 rows, as many as OSV-Mini-129k has, without photos."""
    from geoclip_core.demo.dataset import write_demo

    def make(folder):
        write_demo(folder, 119_008, metadata_only=True)

    return made_once("large", make)
