"""Plausible bugs of the scheduler and the dispatcher, and what catches them: the simulation, or else the unit tests.

Each is put into a copy of the package, in a process of its own. A text that is no longer there, or there twice, is an error: a
mutation that does nothing would count for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = ("pyproject.toml", "steadyvoice", "tests/__init__.py", "tests/conftest.py", "tests/engine", "tests/simulation")
UNIT_TESTS = [f"tests/engine/test_{name}.py" for name in ("scheduler", "budget", "quarantine")]
SEEDS, REQUESTS = 40, 16_000
LONGEST_S = 100.0  # a mutant that makes the simulation endless is caught as well


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in steadyvoice/engine/`module`.py."""

    name: str
    module: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "the budget is asked for one item too few", "scheduler",
        "budget.fits(items + 1, longest_then, self._allowance.share)", "budget.fits(items, longest_then, self._allowance.share)",
    ),
    Mutation(
        "a batch holds one item too many", "scheduler",
        "if items == self.limits.max_batch_items:", "if items > self.limits.max_batch_items:",
    ),
    Mutation(
        "padding is not limited", "scheduler",
        "if fits and padded <= (1 + MAX_PADDING_SHARE) * (total + work.length):", "if fits:",
    ),
    Mutation(
        "what a caller was served is not counted", "scheduler",
        "self._served[job.caller] += work.length", "self._served[job.caller] += 0.0",
    ),
    Mutation(
        "whoever was away is owed what others had meanwhile", "scheduler",
        "max(self._served.get(caller, 0.0), self._floor)", "self._served.get(caller, 0.0)",
    ),
    Mutation(
        "the batch class goes first", "scheduler",
        "1 if job.service_class is ServiceClass.INTERACTIVE else 2", "2 if job.service_class is ServiceClass.INTERACTIVE else 1",
    ),
    Mutation(
        "a suspect runs with strangers", "scheduler",
        "if work is not lead and work.id not in self._suspects", "if work is not lead",
    ),
    Mutation("patience is ignored", "scheduler", "if now - job.last_turn >= PATIENCE_S[job.service_class]:", "if now < 0:"),
    Mutation("the voice at hand goes first however long it has been served", "scheduler", "AFFINITY_S = 2.0", "AFFINITY_S = 2e9"),
    Mutation("every try is the last", "scheduler", "suspicion.alone[Failure.OUT_OF_MEMORY] == last", "True"),
    Mutation("a turn does not put a job behind the others", "scheduler", "            job.last_turn = now\n", ""),
    Mutation(
        "failures alone are not counted", "scheduler",
        "suspicion.alone[failure] += alone", "suspicion.alone[failure] = alone",
    ),
    Mutation(
        "what a cancelled job had on the device is tried again", "scheduler",
        "if self._jobs[work.job].dropped or suspicion", "if suspicion",
    ),
    Mutation(
        "what is tried again comes back in reverse", "scheduler",
        "key=lambda work: work.id, reverse=True)", "key=lambda work: work.id)",
    ),
    Mutation(
        "what is tried again is missing from the backlog", "scheduler",
        "            self._backlog += work.length\n        for work in lost:", "        for work in lost:",
    ),
    Mutation(
        "what a cancelled job had waiting stays in the backlog", "scheduler",
        "self._backlog = max(0.0, self._backlog - sum(work.length for work in dropped))", "pass",
    ),
    Mutation("a cancelled job's work still goes to the device", "scheduler", "        job.waiting.clear()\n", ""),
    Mutation("deadlines pass a second late", "scheduler", "if job.deadline <= now and", "if job.deadline + 1.0 <= now and"),
    Mutation("the budget does not halve when memory ran out", "scheduler", "self._allowance.halve()", "pass"),
    Mutation("the budget never recovers", "budget", "min(1.0, self.share + RECOVERY)", "min(1.0, self.share)"),
    Mutation(
        "an item that the model raised on is never told", "dispatcher",
        '_settle(owed, errors.ItemFailed("the engine failed on this item"))', "pass",
    ),
    Mutation(
        "an answer goes to the item before it", "dispatcher",
        "pending = self._ledger.take(running.works[index])", "pending = self._ledger.take(running.works[index - 1])",
    ),
    Mutation(
        "what has its answer is tried again with the rest", "dispatcher",
        "self._scheduler.failed(running.left, failure,", "self._scheduler.failed(running.works, failure,",
    ),
    Mutation(
        "the last of a batch is blamed as if it had been alone", "dispatcher",
        "alone=len(running.works) == 1)", "alone=len(running.left) == 1)",
    ),
    Mutation("nothing is put into quarantine", "dispatcher", "self._quarantine.add(pending.payload, self._now())", "pass"),
    Mutation(
        "quarantine never ends", "quarantine",
        "while self._until and next(iter(self._until.values())) <= now:", "while False:",
    ),
    Mutation(
        "an idle worker leaves though it is busy", "dispatcher",
        "or self._running is not None or self._is_worker_wanted()", "or self._is_worker_wanted()",
    ),
    Mutation(
        "a model that hangs is never found out", "dispatcher",
        "            return True\n        if silent_s <", "            return False\n        if silent_s <",
    ),
    Mutation(
        "a ticket that is cancelled at the last moment runs", "dispatcher",
        "pending.ticket.running() or pending.ticket.set_running_or_notify_cancel()", "True",
    ),
    Mutation(
        "nobody rings when work comes", "dispatcher",
        "        self._wake()\n        return JobHandle(job_id, tickets)", "        return JobHandle(job_id, tickets)",
    ),
    Mutation(
        "the timer forgets deadlines", "dispatcher",
        "timers = [self._scheduler.next_deadline() - now]", "timers = [NEVER]",
    ),
    Mutation(
        "after a failed load nobody is ever taken again", "worker_slot",
        "return self.state is State.BACKOFF and self.wait_s > 0", "return self.state is State.BACKOFF",
    ),
    Mutation(
        "a ticket stays in the ledger when it is taken", "tickets",
        "return self._pending.pop(work.id, None)", "return self._pending.get(work.id)",
    ),
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="those whose names contain this")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))


def main(options: argparse.Namespace) -> int:
    """Print what caught each mutation, and one JSON line. Returns the exit status."""
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.name]
    caught = caught_by(chosen, options.processes)
    for mutation in chosen:
        print(f"{mutation.name:62}{caught[mutation.name] or 'SURVIVES'}")
    survivors = [name for name, by in caught.items() if by is None]
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} mutations are caught")
    print(
        json.dumps({"bench": "simulation_mutants", "rows": [{"mutation": name, "caught_by": by} for name, by in caught.items()]})
    )
    return 1 if survivors else 0


def caught_by(mutations: Iterable[Mutation], processes: int) -> dict[str, str | None]:
    """By name: what caught it, or None. Without a mutation nothing may be caught."""
    with tempfile.TemporaryDirectory() as folder:
        assert simulation_catches(copy_to(Path(folder))) is None, "an invariant breaks without any mutation"
    with ThreadPoolExecutor(processes) as pool:
        return dict(pool.map(lambda mutation: (mutation.name, what_catches(mutation)), mutations))


def what_catches(mutation: Mutation) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        root = copy_to(Path(folder))
        path = root / "steadyvoice" / "engine" / f"{mutation.module}.py"
        path.write_text(mutated(mutation, path.read_text(encoding="utf-8")), encoding="utf-8")
        return simulation_catches(root) or unit_tests_catch(root)


def mutated(mutation: Mutation, source: str) -> str:
    found = source.count(mutation.old)
    assert found == 1, f"{mutation.name!r}: its text is {found} times in {mutation.module}.py, which has changed"
    return source.replace(mutation.old, mutation.new)


def copy_to(folder: Path) -> Path:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    return folder


def simulation_catches(root: Path) -> str | None:
    arguments = ["-m", "tests.simulation", "run", f"--seeds={SEEDS}", f"--requests={REQUESTS}", "--processes=1"]
    status, output = run(root, arguments)
    if not status:
        return None
    lines = [line for line in output.splitlines() if line.startswith("seed ")]
    return f"simulation: {lines[-1]}" if lines else f"simulation: {'is endless' if status == -1 else output[-300:]}"


def unit_tests_catch(root: Path) -> str | None:
    status, output = run(root, ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *UNIT_TESTS])
    if not status:
        return None
    lines = [line for line in output.splitlines() if line.startswith("FAILED ")]
    return f"unit tests: {lines[0].split(' - ')[0].removeprefix('FAILED ')}" if lines else f"unit tests: {output[-300:]}"


def run(root: Path, arguments: list[str]) -> tuple[int, str]:
    """Exit status, or -1 when it does not end, and everything that it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout
