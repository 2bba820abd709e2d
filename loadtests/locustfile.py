"""Controllers as locust users: locust --locustfile loadtests/locustfile.py --host http://127.0.0.1:8080

``Steady`` is a paced control loop that gives each decision its reward with the next request; ``Burst`` asks for many
sessions at once and is silent then; ``ManySessions`` asks once for each of ever new sessions. What is observed is made
up from the schema of ``GET /policy``. At the end come P50, P95 and P99, and locust's exit status says whether more than
``--fail-ratio`` of the requests failed.
"""

import json
import random
import sys
import time
import urllib.request
import uuid
from http.client import HTTPException
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]  # it ships no types
from locust import FastHttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

# Where only this folder is mounted, its parent is not where Python looks.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from loadtests.observations import act_body, observation

FAILED, UNUSABLE = 1, 2
BURST = 32
EPISODE = 50  # decisions
rng = random.Random()
policy: dict[str, Any] = {}


def options(parser: LocustArgumentParser) -> None:
    """What these users can be told besides locust's own options."""
    parser.add_argument(
        "--fail-ratio",
        type=float,
        default=0.001,
        env_var="ACTD_FAIL_RATIO",
        help="share of failed requests above which locust exits with status 1 (default: 0.001)",
    )
    parser.add_argument(
        "--period",
        type=float,
        default=0.2,
        env_var="ACTD_PERIOD",
        help="seconds from one decision of a steady controller to its next (default: 0.2)",
    )


def learn(environment: Environment, **_: Any) -> None:
    """Ask the service what it observes; without that there is nothing to send, and the run ends."""
    url = f"{(environment.host or '').rstrip('/')}/policy"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - the address that locust was given
            policy.update(json.load(response))
    except (OSError, ValueError, HTTPException) as error:
        sys.stderr.write(f"locustfile: {url} did not tell the schema ({error}), expected actd at --host\n")
        runner = environment.runner
        if environment.web_ui is None:
            environment.process_exit_code = UNUSABLE
        if runner is not None:
            # In a greenlet of its own: the one that runs this is among those that are ended.
            gevent.spawn(runner.quit if environment.web_ui is None else runner.stop)


def judge(environment: Environment, **_: Any) -> None:
    """Say how long answers took, and fail the run where too many failed."""
    if environment.process_exit_code is not None or isinstance(environment.runner, WorkerRunner):
        return
    told: Any = environment.parsed_options
    total, most = environment.stats.total, told.fail_ratio
    for entry in [*sorted(environment.stats.entries.values(), key=lambda one: one.name), total]:
        p50, p95, p99 = (entry.get_response_time_percentile(share) for share in (0.50, 0.95, 0.99))
        print(f"{entry.name}: {entry.num_requests} requests, P50 {p50:g} ms, P95 {p95:g} ms, P99 {p99:g} ms")
    raised = len(environment.runner.exceptions) if environment.runner is not None else 0
    failed = not total.num_requests or total.fail_ratio > most or raised > 0
    print(
        f"{'FAILED' if failed else 'OK'}: {total.num_failures} of {total.num_requests} requests failed"
        f" ({total.fail_ratio:.3%}), expected at most {most:.3%} and at least one request"
    )
    environment.process_exit_code = FAILED if failed else 0


class Controller(FastHttpUser):
    """What all controllers do: ask, and look at what comes back."""

    abstract = True

    def ask(self, name: str, body: dict[str, Any]) -> str | None:
        """One request to ``/act``; the decision's id, None where it failed."""
        with self.client.post("/act", json=body, name=name, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}: {(response.text or '')[:200]}")
                return None
            answer = response.json()
            if answer.get("action_name") not in policy["actions"]:
                response.failure(f"the action is {answer.get('action_name')!r}, expected one of {policy['actions']}")
                return None
            return str(answer["decision_id"])


class Steady(Controller):
    """A control loop: one decision each period, with the last one's reward; an episode ends after ``EPISODE``."""

    weight = 6
    period: float
    due: float
    previous: str | None

    def wait_time(self) -> float:
        """What is left of the period; what a late answer took of the next is not made up for."""
        now = time.monotonic()
        self.due = max(self.due + self.period, now)
        return self.due - now

    def on_start(self) -> None:
        """A new controller has no history, and begins at a moment of its own."""
        self.session = f"steady-{uuid.uuid4().hex}"
        self.previous = None
        self.decided = 0
        told: Any = self.environment.parsed_options
        self.period = told.period
        # The first request comes at once; the second finds the controller's own place in the period.
        self.due = time.monotonic() - rng.uniform(0, self.period)

    @task
    def control(self) -> None:
        """One turn of the loop."""
        body = act_body(policy, self.session, rng)
        body["previous"] = self.previous
        if self.previous is not None:
            body["feedback"] = {"reward": round(rng.gauss(0, 1), 3)}
        self.previous = self.ask("/act steady", body)
        self.decided += 1
        if self.decided % EPISODE == 0 and self.previous is not None:
            self.client.post("/feedback", json=_last(self.previous), name="/feedback")
            self.previous = None


class Burst(Controller):
    """Many at once, then silence."""

    weight = 1
    concurrency = BURST
    wait_time = between(1, 3)

    def on_start(self) -> None:
        """Its sessions stay the same from burst to burst."""
        self.sessions = [f"burst-{uuid.uuid4().hex}" for _ in range(BURST)]

    @task
    def burst(self) -> None:
        """All sessions ask at the same time."""
        asked = [gevent.spawn(self.ask, "/act burst", act_body(policy, one, rng)) for one in self.sessions]
        gevent.joinall(asked, raise_error=True)


class ManySessions(Controller):
    """Each request is a new session's first."""

    weight = 3
    wait_time = between(0.005, 0.05)

    @task
    def once(self) -> None:
        """A session that is seen once."""
        self.ask("/act new session", act_body(policy, f"new-{uuid.uuid4().hex}", rng))


def _last(decision_id: str) -> dict[str, Any]:
    """An episode that was cut off after this decision."""
    seen = observation(policy["observation"], rng)
    return {"decision_id": decision_id, "reward": 0.0, "truncated": True, "next_observation": seen}


events.init_command_line_parser.add_listener(options)  # type: ignore[no-untyped-call]  # locust's has no types
events.test_start.add_listener(learn)  # type: ignore[no-untyped-call]  # locust's has no types
events.quitting.add_listener(judge)  # type: ignore[no-untyped-call]  # locust's has no types
