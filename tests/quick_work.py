"""``python -m tests.quick_work ACTION``: work for the tests of jobs that needs no libraries."""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from geoclip_core.jobs import StatusWriter


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("action")
    parser.add_argument("value", nargs="?")
    parser.add_argument("--status", type=Path)
    options = parser.parse_args()
    if options.action == "nothing":
        return 0
    if options.action not in ("count", "fail", "stubborn"):
        print(f"no action {options.action}", file=sys.stderr)
        return 2
    if options.action == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(helper.pid, flush=True)
    else:
        print("begun", flush=True)
    try:
        with StatusWriter(options.status, "counting", "steps") as writer:
            if options.action == "fail":
                raise ValueError(options.value)
            if options.action == "stubborn":
                time.sleep(600)
            for step in range(int(options.value)):
                time.sleep(0.01)
                writer.update(step + 1, int(options.value))
            writer.message = f"counted to {options.value}"
    except KeyboardInterrupt:
        print("cleaned up")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
