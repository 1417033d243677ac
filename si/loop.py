"""The self-improvement loop, on one screen.

The loop handles addresses and counts, never data. Every step is one call to `Run.stage`:
committed already -> its address; else submit, wait, check the manifest.
"""

from si.run import Run
from si.runs.limits import LimitReached, record
from si.store.commit import Manifest


def iterate(run: "Run") -> Manifest:
    """Improve policy 0 for as many iterations as the recipe says; returns the report.

    Raises:
        LimitReached: when the run has spent what it may.
    """
    run.prepare()
    policy = run.base
    run.evaluate(0, policy)
    for t in range(1, run.recipe.iterations + 1):
        rollouts = run.explore(t, policy)
        verdicts = run.verify(t, rollouts)
        rounds = [(rollouts, verdicts)]
        draws = run.resample(t, rollouts, verdicts)
        if draws and draws.rows:  # vanilla, tc and rp ask for none
            rollouts = run.explore(t, policy, draws)
            rounds.append((rollouts, run.verify(t, rollouts)))
        examples = run.rebalance(t, rounds)
        policy = run.train(t, examples, policy)
        run.evaluate(t, policy)
        if run.enough(t):
            break
    return run.report(t)


def conclude(run: "Run") -> Manifest | None:
    """`iterate`, and where a limit cuts it short the report of the completed iterations (None
    if there is none). Why it ended early is in `run.stopped`, and in the store."""
    report = None
    try:
        report = iterate(run)
    except LimitReached as reached:
        run.stopped = reached.stop
        if run.done:
            report = run.report(run.done)
    if run.stopped:
        record(run.store, run.folder, run.stopped)
    return report
