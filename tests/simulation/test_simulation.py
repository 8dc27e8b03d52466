from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from collections import Counter

import pytest

from steadyvoice.engine.batch_budget import Allowance
from steadyvoice.engine.tickets import Ledger
from tests.simulation import mutations, planning
from tests.simulation.history import SHOWN
from tests.simulation.mutations import MUTATIONS, ROOT
from tests.simulation.simulation import simulate

PLAN = argparse.Namespace(
    rate=20.0, mix="mixed", speed=100.0, overhead=0.02, budget=300.0, backlog=3_600.0, seconds=200.0, seed=1
)
SEEDS, REQUESTS = range(1, 61), 1_000
# What must have happened in so many seeds, or the seeds say less than they seem to.
MET = {
    "answered", "cancelled", "nonsense", "retries", "waits out of patience", "loads that failed", "workers that left",
    "batches that failed: oom", "batches that failed: error", "batches that failed: death",
    "engine: died", "engine: hung", "engine: protocol_error", "engine: recycled", "engine: unloaded",
    "engine: oom_split", "engine: oom_again", "engine: oom_refused", "engine: error_split", "engine: quarantined",
    "failed: cancelled", "failed: deadline_exceeded", "failed: engine_unavailable", "failed: invalid_value",
    "failed: item_failed", "failed: out_of_memory", "failed: worker_died",
    "refused: engine_unavailable", "refused: quarantined", "refused: queue_full", "refused: too_large",
}  # fmt: skip


def test_no_invariant_breaks_whatever_goes_wrong() -> None:
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        outcome = simulate(seed, REQUESTS)
        counts.update(outcome.counts)

        assert not outcome.broken, f"{outcome.broken}; again: make simulate SEED={seed} REQUESTS={REQUESTS}"
    assert not {name for name in MET if not counts[name]}


def test_a_seed_replays_exactly_in_any_process() -> None:
    digests = [str(simulate(seed, 300).digest) for seed in (3, 4)]
    script = "from tests.simulation.simulation import simulate; print(simulate(3, 300).digest, simulate(4, 300).digest)"
    environment = os.environ | {"PYTHONHASHSEED": "7"}

    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )

    assert printed.stdout.split() == digests
    assert len(set(digests)) == 2


def test_a_broken_invariant_names_itself_and_shows_what_happened_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Allowance, "halve", lambda allowance: None)

    broken = [outcome for outcome in (simulate(seed, REQUESTS) for seed in range(1, 21)) if outcome.broken]

    assert any("the share is 1.0" in str(outcome.broken) for outcome in broken)
    assert all(0 < len(outcome.history) <= SHOWN for outcome in broken)
    assert broken[0] == simulate(broken[0].seed, REQUESTS)


def test_a_bug_that_ends_the_engine_is_a_broken_invariant_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "get", lambda ledger, work: ledger._pending[-1])

    assert simulate(1, 100).broken == "the engine's thread ended by KeyError(-1)"


def test_more_cards_are_faster_and_refuse_less() -> None:
    rows = [planning.plan(PLAN, cards) for cards in (4, 16, 64)]

    assert [row["p95_s"] for row in rows] == sorted((row["p95_s"] for row in rows), reverse=True)
    assert rows[0]["refused_audio"] > 0.1
    assert rows[-1]["refused"] == 0
    assert rows[0]["utilisation"] > 0.9 > rows[-1]["utilisation"]
    # 55 s of audio twenty times a second over 64 cards of 100 audio-s/s is a sixth, with what batches cost besides.
    assert rows[-1]["utilisation"] == pytest.approx(20 * rows[-1]["audio_s"] / (64 * 100), rel=0.5)


def test_every_mutation_applies_in_exactly_one_place() -> None:
    for mutation in MUTATIONS:
        path, source = mutations.mutated(mutation, ROOT / "steadyvoice" / "engine")

        assert ast.dump(ast.parse(source)) != ast.dump(ast.parse(path.read_text(encoding="utf-8"))), mutation.name
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 33


def test_a_sample_of_the_mutations_is_the_same_for_the_same_seed() -> None:
    samples = [mutations.sample(MUTATIONS, 5, seed) for seed in (20260131, 20260131, 20260201)]

    assert samples[0] == samples[1] != samples[2]
    assert len({mutation.name for mutation in samples[0]}) == 5
