"""Two thousand requests while memory runs out, inputs are poison and the worker is killed every 20 seconds.

The real app and real processes; only the engine is a fake that breaks on purpose (testing/chaotic_synthesizer.py). Every
answer is checked. Prints a table and one JSON line, and exits with 1 if anybody got what they should not. `make bench-chaos`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from steadyvoice.testing import chaos  # noqa: E402
from steadyvoice.testing.running_apps import running  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description="the service under an engine that breaks all the time")
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=200.0, help="over which the requests are spread")
    options = parser.parse_args()
    with running("steadyvoice/testing/chaotic_app.py", **chaos.SETTINGS) as app:
        outcome = chaos.run(app, options.requests, options.callers, options.kill_every, options.seconds)
    row = outcome.as_row()
    for name, value in row.items():
        print(f"{name:<28} {value}")
    for line in outcome.wrong[:20]:
        print("WRONG:", line)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({"bench": "chaos", "commit": commit, "machine": machine, "rows": [row], "ratios": {}}))
    sys.exit(1 if outcome.wrong else 0)


if __name__ == "__main__":
    main()
