"""Memory runs out, inputs are poison, workers are killed: the innocent get their answers, the others an error. Real processes."""

from __future__ import annotations

from steadyvoice.testing import chaos
from steadyvoice.testing.running_apps import running


def test_the_innocent_are_answered_rightly_and_every_poison_is_refused() -> None:
    with running("steadyvoice/testing/chaotic_app.py", **chaos.SETTINGS) as app:
        outcome = chaos.run(app, requests=400, callers=32, kill_every_s=3.0)

    assert not outcome.wrong, chaos.summary(outcome.wrong)
    assert outcome.poisons_refused == 400 // chaos.POISON_EVERY
    assert outcome.events["oom_split"] + outcome.events["oom_again"] > 0
    assert outcome.events["error_split"] > 0
    assert outcome.events["died"] > 0
