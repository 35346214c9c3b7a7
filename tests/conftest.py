"""Settings of every test process."""

import os

# Tests run side by side: torch with a thread for every core in each of them would be far slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
