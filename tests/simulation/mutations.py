"""Plausible bugs of the scheduler and the dispatcher, and what catches them: the simulation, or else the unit tests.

Each is put into a copy of the package and run in a process of its own. It is described by a function and by a change of its
syntax tree (see `operators`); one that does not apply in exactly one place is an error, since it would prove nothing.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.operators import (
    CannotApply,
    Operator,
    add_to_compared,
    apply,
    assign_instead_of_adding,
    compare_by,
    constant_instead_of,
    drop_addend,
    drop_addend_of_argument,
    drop_assignment,
    drop_call,
    drop_keyword,
    drop_operand,
    first_argument_instead_of,
    negate_condition,
    negate_return,
    other_attribute,
    set_condition,
    set_constant,
    shift_index_of_argument,
)

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = ("pyproject.toml", "steadyvoice", "tests/__init__.py", "tests/engine", "tests/simulation")
UNIT_TESTS = [f"tests/engine/test_{name}.py" for name in ("scheduler", "batch_budget", "quarantine")]
SEEDS, REQUESTS = 40, 16_000
ENDLESS = -1  # instead of an exit status
LONGEST_S = 100.0  # a mutant that makes the simulation endless is caught as well


@dataclass(frozen=True)
class Mutation:
    """`operator` changes `function` (qualified name) in whichever module of steadyvoice/engine/ has it; "" is a module itself."""

    name: str
    function: str
    operator: Operator


MUTATIONS = [
    Mutation("the budget is asked for one item too few", "Scheduler._companions", drop_addend_of_argument("fits")),
    Mutation("a batch holds one item too many", "Scheduler._companions", compare_by(ast.Gt, "max_batch_items")),
    Mutation("padding is not limited", "Scheduler._companions", drop_operand("padded")),
    Mutation("served seconds are not counted", "Scheduler.next_batch", drop_assignment("_served")),
    Mutation("an absent caller makes up for its absence", "Scheduler.submit", first_argument_instead_of("max")),
    Mutation("the batch class goes first", "Scheduler._rank", negate_condition("INTERACTIVE")),
    Mutation("a suspect runs with works of other batches", "Scheduler._companions", drop_operand("_suspects")),
    Mutation("patience is ignored", "Scheduler._rank", set_condition("PATIENCE_S", False)),
    Mutation("the voice at hand goes first without a limit", "", set_constant("AFFINITY_S", 2e9)),
    Mutation("every retry is the last", "Scheduler.is_last_try", drop_operand("alone")),
    Mutation("a turn does not put a job behind the others", "Scheduler.next_batch", drop_assignment("last_turn")),
    Mutation("lone failures are not counted", "Scheduler.failed", assign_instead_of_adding("alone")),
    Mutation("running works of a cancelled job are retried", "Scheduler.failed", drop_operand("dropped")),
    Mutation("retried works come back in reverse", "Scheduler.failed", drop_keyword("sorted", "reverse")),
    Mutation("retried works are missing from the backlog", "Scheduler.failed", drop_assignment("_backlog")),
    Mutation("waiting works of a cancelled job stay in the backlog", "Scheduler._drop", drop_assignment("_backlog")),
    Mutation("waiting works of a cancelled job are still sent", "Scheduler._drop", drop_call("clear")),
    Mutation("deadlines pass a second late", "Scheduler.expire", add_to_compared("deadline", 1.0)),
    Mutation("the budget does not halve when memory ran out", "Scheduler.failed", drop_call("halve")),
    Mutation("the budget never recovers", "Allowance.recover", drop_addend("RECOVERY")),
    Mutation("an error of the model is not reported", "BatchRunner.settle_batch", drop_call("settle_all")),
    Mutation("an answer goes to the item before it", "BatchRunner.item_answered", shift_index_of_argument("finished", -1)),
    Mutation("answered items are retried with the rest", "Jobs.failed", other_attribute("remaining", "works")),
    Mutation("the last open item of a batch counts as alone", "Jobs.failed", other_attribute("works", "remaining")),
    Mutation("nothing is put into quarantine", "Jobs.failed", drop_call("add")),
    Mutation("quarantine never ends", "Quarantine.seconds_left", set_condition("next", False)),
    Mutation("a busy worker is unloaded as idle", "Dispatcher._leave_if_idle", drop_operand("_runner")),
    Mutation("a model that hangs is not detected", "BatchRunner.is_stuck", negate_return("batch_limit_s")),
    Mutation(
        "a ticket that is cancelled at the last moment runs",
        "Jobs.next_batch",
        set_condition("set_running_or_notify_cancel", True),
    ),
    Mutation("the engine is not woken when work comes", "Jobs.submit", drop_call("_wake")),
    Mutation("the timer forgets deadlines", "Dispatcher.next_timer_s", constant_instead_of("next_deadline", math.inf)),
    Mutation("after a failed load all requests are refused for ever", "WorkerLifecycle.backing_off", drop_operand("wait_s")),
    Mutation("a ticket stays in the ledger when it is taken", "Ledger.take", other_attribute("pop", "get")),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="those whose names contain this")
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, chosen by --seed")
    parser.add_argument("--seed", type=int, help="of the sample; by default the date, as in 20260131")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))


def main(options: argparse.Namespace) -> int:
    """Print what caught each mutation, and one JSON line. Returns the exit status."""
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.name]
    if options.sample is not None:
        seed = options.seed or int(f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%d}")
        print(f"{options.sample} of {len(chosen)} mutations, chosen by --seed {seed}")
        chosen = sample(chosen, options.sample, seed)
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
        root = copy_to(Path(folder))
        assert simulation_catches(root) is None, "an invariant breaks without any mutation"
        assert unit_tests_catch(root) is None, "a unit test fails without any mutation"
    with ThreadPoolExecutor(processes) as pool:
        return dict(pool.map(lambda mutation: (mutation.name, what_catches(mutation)), mutations))


def sample(mutations: list[Mutation], count: int, seed: int) -> list[Mutation]:
    """`count` of them, or all if there are fewer; the same for the same seed."""
    return random.Random(seed).sample(mutations, min(count, len(mutations)))


def what_catches(mutation: Mutation) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        root = copy_to(Path(folder))
        path, source = mutated(mutation, root / "steadyvoice" / "engine")
        path.write_text(source, encoding="utf-8")
        return simulation_catches(root) or unit_tests_catch(root)


def mutated(mutation: Mutation, package: Path) -> tuple[Path, str]:
    """The module of `package` that the mutation changes, and its changed source.

    Raises:
        CannotApply: no module has the function, several have it, or the operator does not apply in exactly one place.
    """
    found = []
    for path in sorted(package.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not mutation.function:
            try:
                apply(mutation.operator, tree)
            except CannotApply:
                continue
            found.append((path, ast.unparse(tree)))
        for name, function in functions(tree):
            if name == mutation.function:
                before = ast.dump(function)
                try:
                    apply(mutation.operator, function)
                except CannotApply as error:
                    raise CannotApply(f"{mutation.name!r}: in {mutation.function}, {error}") from error
                assert ast.dump(function) != before, f"{mutation.name!r} changes nothing"
                found.append((path, ast.unparse(tree)))
    if len(found) != 1:
        raise CannotApply(f"{mutation.name!r}: {len(found)} modules of {package} have {mutation.function or 'the constant'}")
    return found[0]


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield inside + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{inside}{node.name}.")


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
    assert lines or status == ENDLESS, f"the simulation does not run: {output[-2_000:]}"
    return f"simulation: {lines[-1] if lines else 'is endless'}"


def unit_tests_catch(root: Path) -> str | None:
    status, output = run(root, ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *UNIT_TESTS])
    if not status:
        return None
    lines = [line for line in output.splitlines() if line.startswith("FAILED ")]
    assert lines or status == ENDLESS, f"the unit tests do not run: {output[-2_000:]}"
    return f"unit tests: {lines[0].split(' - ')[0].removeprefix('FAILED ') if lines else 'are endless'}"


def run(root: Path, arguments: list[str]) -> tuple[int, str]:
    """Exit status, or ENDLESS, and everything that it printed."""
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
        return ENDLESS, ""
    return done.returncode, done.stdout
