"""The control loop: plays a trace through `POST /act`, minute by minute, beside the Kubernetes HPA rule.

python examples/autoscaler/drive.py --url http://127.0.0.1:8080 [--trace FILE.csv] [--minutes N]
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

if not __package__:  # run as a file: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.autoscaler.client import Answer, Client, ServiceError
from examples.autoscaler.dynamics import ACTION_NAMES, ACTIONS, STEP_SECONDS, Service, State, observation, step
from examples.autoscaler.episode import Totals, first_state
from examples.autoscaler.episode import minute as play_minute
from examples.autoscaler.hpa import SYNC_LOOKS, TARGET, Hpa
from examples.autoscaler.traces import DAY, PEAK_REPLICAS, Trace, TraceError, generate, read_csv

HEADER: Final = (
    f"{'time':<12} {'req/s':>7} | {'policy: action':<14} {'replicas':>8} {'P95 ms':>7} {'cost':>8} {'breach':>6} "
    f"{'interv.':>7} {'fallb.':>6} | {'HPA: replicas':>13} {'P95 ms':>7} {'cost':>8} {'breach':>6}"
)


@dataclass(slots=True)
class Run:
    """Both services as they stand: the one that actd steers and the one that the HPA rule steers."""

    policy: State
    hpa: State
    policy_totals: Totals = field(default_factory=Totals)
    hpa_totals: Totals = field(default_factory=Totals)
    actions: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    interventions: Counter[str] = field(default_factory=Counter)  # by constraint
    fallbacks: Counter[str] = field(default_factory=Counter)  # by reason

    def note(self, answer: Answer) -> None:
        """Count what one answer says about itself."""
        self.actions[answer.action_name] += 1
        self.versions[answer.version] += 1
        self.interventions.update(answer.prevented)
        if answer.source != "policy":
            self.fallbacks[f"{answer.source}: {answer.reason or 'no reason given'}"] += 1


def drive(trace: Trace, client: Client, session: str, *, show: Callable[[int, float, Run], None]) -> Run:
    """Play the whole trace as one episode; every reward goes back with the next request, the last one on its own.

    `observed_at` is the simulated clock: the service's guards measure their cooldowns in it. Raises `ServiceError`.
    """
    service, hpa = Service(), Hpa(TARGET, looks=SYNC_LOOKS)
    run = Run(policy=first_state(trace, service), hpa=first_state(trace, service))
    previous: str | None = None
    reward = 0.0
    for minute, arrivals in enumerate(trace.requests.tolist()):
        answer = client.act(
            session=session,
            observation=observation(run.policy, service),
            observed_at=trace.started_at + minute * STEP_SECONDS,
            previous=previous,
            reward=None if previous is None else reward,
        )
        run.note(answer)
        run.policy, outcome = step(run.policy, ACTIONS[ACTION_NAMES.index(answer.action_name)], arrivals, service)
        run.policy_totals = run.policy_totals.with_minute(run.policy, outcome)
        previous, reward = answer.decision_id, outcome.reward
        run.hpa, outcome = play_minute(run.hpa, hpa.change, arrivals, service, SYNC_LOOKS)
        run.hpa_totals = run.hpa_totals.with_minute(run.hpa, outcome)
        show(minute, arrivals, run)
    if previous is not None:
        client.close_episode(decision_id=previous, reward=reward, next_observation=observation(run.policy, service))
    return run


def row(started_at: float, minute: int, arrivals: float, run: Run, last_action: str) -> str:
    """One line of the live table."""
    clock = time.strftime("%m-%d %H:%M", time.gmtime(started_at + minute * STEP_SECONDS))
    ours, theirs = run.policy_totals, run.hpa_totals
    return (
        f"{clock:<12} {arrivals / STEP_SECONDS:>7.1f} | {last_action:<14} {run.policy.replicas:>8d} "
        f"{run.policy.p95_ms:>7.0f} {ours.cost:>8.2f} {ours.breach_minutes:>6d} {run.interventions.total():>7d} "
        f"{run.fallbacks.total():>6d} | {run.hpa.replicas:>13d} {run.hpa.p95_ms:>7.0f} {theirs.cost:>8.2f} "
        f"{theirs.breach_minutes:>6d}"
    )


def summary(run: Run) -> str:
    """The whole run side by side, and what the service said about its decisions."""
    hpa = f"HPA at {TARGET:.0%}"
    lines = ["", f"{'':<18} {'policy':>10} {hpa:>12}"]
    ours, theirs = run.policy_totals, run.hpa_totals
    for name, mine, other in (
        ("cost", f"{ours.cost:.2f}", f"{theirs.cost:.2f}"),
        ("SLO-breach minutes", f"{ours.breach_minutes}", f"{theirs.breach_minutes}"),
        ("mean replicas", f"{ours.mean_replicas:.2f}", f"{theirs.mean_replicas:.2f}"),
        ("dropped requests", f"{ours.dropped:.0f}", f"{theirs.dropped:.0f}"),
        ("return", f"{ours.reward:.2f}", f"{theirs.reward:.2f}"),
    ):
        lines.append(f"{name:<18} {mine:>10} {other:>12}")
    for name, counts in (
        ("served by", run.versions),
        ("actions", run.actions),
        ("interventions", run.interventions),
        ("fallbacks", run.fallbacks),
    ):
        listed = ", ".join(f"{what} {count}" for what, count in counts.most_common())
        lines.append(f"{name}: {listed or 'none'}")
    return "\n".join(lines)


def as_json(run: Run) -> str:
    """The summary as one JSON object on one line."""
    return json.dumps(
        {
            "policy": run.policy_totals.as_json(),
            "hpa": {"target": TARGET, **run.hpa_totals.as_json()},
            "served_by": run.versions,
            "actions": run.actions,
            "interventions": run.interventions,
            "fallbacks": run.fallbacks,
        }
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it is a sentence and exit status 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where the service answers (%(default)s)")
    parser.add_argument("--trace", type=Path, help="a CSV of minute,requests; without it a day is generated")
    parser.add_argument("--peak-replicas", type=float, default=PEAK_REPLICAS, help="what the CSV's peak keeps busy")
    parser.add_argument("--minutes", type=int, help="stop after so many simulated minutes")
    parser.add_argument("--seed", type=int, default=0, help="of the generated day (%(default)s)")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds to wait after each simulated minute")
    parser.add_argument("--every", type=int, default=30, help="a row every so many simulated minutes (%(default)s)")
    parser.add_argument("--session", help="the session's name; by default a new one for each run")
    parser.add_argument("--json", action="store_true", help="only the summary, as one JSON object")
    options = parser.parse_args(arguments)
    if options.minutes is not None and options.minutes < 1:
        parser.error(f"--minutes is {options.minutes}, expected at least 1")
    if options.every < 1:
        parser.error(f"--every is {options.every}, expected at least 1")
    if options.pace < 0:
        parser.error(f"--pace is {options.pace}, expected 0 or more seconds")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}, expected 0 or more")
    if not 0 < options.peak_replicas <= Service().max_replicas:
        parser.error(f"--peak-replicas is {options.peak_replicas}, expected more than 0 and at most 30")
    return options


def load(options: argparse.Namespace) -> Trace:
    """The trace that the command line asks for, cut to its minutes. Raises `TraceError`."""
    replica_rps = Service().replica_rps
    if options.trace:
        trace = read_csv(options.trace, replica_rps=replica_rps, peak_replicas=options.peak_replicas)
    else:
        minutes = max(options.minutes or DAY, DAY)
        trace = generate(np.random.default_rng(options.seed), minutes, replica_rps=replica_rps)
    return Trace(trace.name, trace.requests[: options.minutes], trace.started_at)


def main(arguments: list[str] | None = None, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Drive, and print what happens; 0 when the trace was played to its end."""
    options = parse(arguments)

    def show(minute: int, arrivals: float, run: Run) -> None:
        if not options.json and (minute % options.every == 0 or minute + 1 == len(trace.requests)):
            print(row(trace.started_at, minute, arrivals, run, client.last_action), flush=True)
        if options.pace:
            sleep(options.pace)

    try:
        trace = load(options)
        now = f"{time.time_ns():x}"
        session = options.session or f"drive-{now}"
        with Client(options.url, run=now) as client:
            if not options.json:
                print(HEADER)
            run = drive(trace, client, session, show=show)
    except (TraceError, ServiceError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(as_json(run) if options.json else summary(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
