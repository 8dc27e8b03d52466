"""Join a cgroup, then become the program that is named: so that all of its memory is charged there from its first page on.

`bench/memory_enter.py [SCRIPT ARGUMENT …]`, without arguments the speech-to-text app. The group is named by BENCH_MEMORY_GROUP.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUP = "BENCH_MEMORY_GROUP"

if __name__ == "__main__":
    Path(os.environ.pop(GROUP), "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    os.execv(sys.executable, [sys.executable, *(sys.argv[1:] or [str(ROOT / "app_sensevoice.py")])])
