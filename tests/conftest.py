"""Settings of every test process."""

import os
from collections import Counter

import pytest
from hypothesis import settings

# Tests run side by side: torch with a thread for every core in each of them would be far slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """Keep what the tests download, compute and open apart from the developer's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOCLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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
