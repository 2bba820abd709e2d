"""The trained policy beside the Kubernetes HPA rule, closed loop and in process."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

if not __package__:  # run as a file: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.autoscaler.checkpoint import CheckpointError, read_network
from examples.autoscaler.dynamics import STEP_SECONDS, Service
from examples.autoscaler.episode import Controller, Totals, play, total
from examples.autoscaler.greedy import Greedy, Network
from examples.autoscaler.hpa import SYNC_LOOKS, TARGET, Hpa
from examples.autoscaler.traces import DAY, PEAK_REPLICAS, Trace, TraceError, generate, read_csv

HERE: Final = Path(__file__).resolve().parent
CHECKPOINT: Final = HERE / "checkpoint.zip"
EVALUATION_SEED: Final = 7  # no training or validation trace is drawn from it
EVALUATION_DAYS: Final = 20
SWEEP: Final = (0.5, 0.55, 0.6, 0.65, 0.68, 0.7, 0.72, 0.75, 0.8)


def generated_days(seed: int, days: int) -> list[Trace]:
    """So many generated days, each from a generator of its own."""
    replica_rps = Service().replica_rps
    return [generate(np.random.default_rng([seed, day]), DAY, replica_rps=replica_rps) for day in range(days)]


def measure(traces: list[Trace], controller: Callable[[], Controller], service: Service, *, looks: int = 1) -> Totals:
    """All traces under a controller that is made anew for each, added up."""
    return total([play(trace, controller(), service, looks=looks) for trace in traces])


def table(rows: Mapping[str, Totals]) -> str:
    """The totals side by side, as text."""
    lines = [f"{'controller':<18} {'cost':>9} {'SLO-breach min':>15} {'mean replicas':>14} {'return':>10}"]
    lines += [
        f"{name:<18} {part.cost:>9.1f} {part.breach_minutes:>15d} {part.mean_replicas:>14.3f} {part.reward:>10.1f}"
        for name, part in rows.items()
    ]
    return "\n".join(lines)


def compare(traces: list[Trace], network: Network, targets: tuple[float, ...]) -> dict[str, Totals]:
    """The policy and the HPA rule on the same traces: at each target, looking once a minute and every 15 s."""
    service = Service()
    rows = {"policy": measure(traces, lambda: Greedy(network, service).change, service)}
    for target in targets:
        for looks in (1, SYNC_LOOKS):
            name = f"HPA {target:.0%} every {STEP_SECONDS / looks:.0f} s"
            rows[name] = measure(traces, _hpa(target, looks), service, looks=looks)
    return rows


def _hpa(target: float, looks: int) -> Callable[[], Controller]:
    return lambda: Hpa(target, looks=looks).change


def main() -> int:
    """Print the tables (or one JSON object) for the generated days and, where one is given, a real trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="a Stable-Baselines3 DQN zip")
    parser.add_argument("--trace", type=Path, help="also a CSV of minute,requests")
    parser.add_argument("--peak-replicas", type=float, default=PEAK_REPLICAS, help="what the CSV's peak keeps busy")
    parser.add_argument("--days", type=int, default=EVALUATION_DAYS, help="how many generated days")
    parser.add_argument("--sweep", action="store_true", help="the HPA rule at every target of the sweep")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sets = {f"{options.days} generated days": generated_days(EVALUATION_SEED, options.days)}
    try:
        if options.trace:
            replica_rps = Service().replica_rps
            trace = read_csv(options.trace, replica_rps=replica_rps, peak_replicas=options.peak_replicas)
            sets[trace.name] = [trace]
        network = read_network(options.checkpoint)
    except (TraceError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 2
    results = {name: compare(days, network, SWEEP if options.sweep else (TARGET,)) for name, days in sets.items()}
    if options.json:
        print(json.dumps({name: {who: part.as_json() for who, part in rows.items()} for name, rows in results.items()}))
    else:
        print("\n\n".join(f"{name}\n{table(rows)}" for name, rows in results.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
