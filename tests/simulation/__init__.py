"""The real dispatcher on a virtual clock with a model worker: millions of requests with every fault that we can name.

`python -m tests.simulation run` (or `make simulate`) runs it. One seed decides everything: the world, the traffic and the faults,
so a seed that fails fails again.

    world       what a seed stands for: a device, its faults, the traffic, the limits
    traffic     requests and their pieces, drawn one by one
    history     virtual time, and what happened in it
    worker      the model worker, which keeps the worker's contract on the virtual clock
    watch       what must be true of one card, kept by bookkeeping of its own
    fairness    nobody starves
    verdicts    what a caller may be told, and when
    card        a dispatcher with its worker, driven as the engine's thread drives it
    simulation  the loop of events
    planning    the same without faults: N cards, a rate, a mix -> p95, refusals, utilisation
    mutations   plausible bugs, all of which must be caught
"""
