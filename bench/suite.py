"""How long the test suite takes and which tests dominate. `make bench-suite`, which runs the suite first.

Reads the JUnit reports that `make unit` leaves in .pytest_cache. Prints a table and one JSON line; kept under bench/results.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / ".pytest_cache"
SLOWEST = 25


def main() -> None:
    rows, tests, files = [], Counter[str](), Counter[str]()
    for path in sorted(REPORTS.glob("junit-*.xml")):
        (suite,) = ElementTree.parse(path).getroot()
        counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
        rows.append({"part": path.stem.removeprefix("junit-"), "wall_s": round(float(suite.attrib["time"]), 1), **counts})
        for case in suite.iter("testcase"):
            seconds = float(case.attrib["time"])  # with its fixtures
            files[case.attrib["classname"]] += seconds
            tests[f"{case.attrib['classname']}::{case.attrib['name']}"] += seconds
    for row in rows:
        print(f"{row['part']:12}{row['wall_s']:8.1f} s  {row['tests']} tests, {row['failures'] + row['errors']} failed")
    slowest_tests = [{"test": name, "seconds": round(seconds, 1)} for name, seconds in tests.most_common(SLOWEST)]
    slowest_files = [{"file": name, "seconds": round(seconds, 1)} for name, seconds in files.most_common(SLOWEST)]
    for entry in slowest_tests:
        print(f"{entry['seconds']:8.1f} s  {entry['test']}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    cores = len(os.sched_getaffinity(0))
    report = {
        "bench": "suite",
        "commit": commit,
        "machine": f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, load {os.getloadavg()[2]:.1f}",
        "rows": rows,
        "wall_s": round(sum(float(row["wall_s"]) for row in rows), 1),
        "slowest_tests": slowest_tests,
        "slowest_files": slowest_files,
        "ratios": {},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
