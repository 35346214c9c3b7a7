"""Settings of every test process."""

import os

from hypothesis import settings

# Tests run side by side: torch with a thread for every core in each of them would be far slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run: what fails here fails again. To look for new ones:
# pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
