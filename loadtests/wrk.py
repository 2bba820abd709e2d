"""wrk: its script of many sessions, its run, and what it reports."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "actd-bench "
THREADS = 1
_GRACE_S = 30.0

# Requests are put together before the first is sent, so that the script costs wrk little.
_SCRIPT = """local bodies = {{
{bodies}
}}
local requests, at = {{}}, 0
function init()
  wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
  for i, body in ipairs(bodies) do requests[i] = wrk.format(nil, "/act", nil, body) end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{mark}{{"requests":%d,"us":%d,"p50_us":%d,"p99_us":%d,' ..
    '"errors":{{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, e.status))
end
"""
_TROUBLES = {
    "status": "answers that were no 2xx",
    "connect": "connections that failed",
    "read": "reads that failed",
    "write": "writes that failed",
    "timeout": "answers that took over 2 s",
}


class BenchFailed(Exception):
    """The bench cannot be run, or what it measured would not be true; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


def found() -> str:
    """Where wrk is; raises BenchFailed that names the package."""
    path = shutil.which("wrk")
    if path is None:
        msg = "wrk is not installed, and it drives the servers: install the Debian package wrk"
        raise BenchFailed(msg)
    return path


def script(bodies: Sequence[str]) -> str:
    """The Lua script that sends ``bodies`` (ASCII) to ``/act`` in turn, each thread through all of them."""
    # A JSON string of printable ASCII is a Lua string too.
    return _SCRIPT.format(bodies=",\n".join(json.dumps(body) for body in bodies), mark=MARK)


def run(url: str, script_path: Path, *, connections: int, seconds: float) -> Sample:
    """Drive one server; raises BenchFailed where an answer was missing or was no 2xx."""
    whole = max(1, round(seconds))
    command = [found(), f"-t{THREADS}", f"-c{connections}", f"-d{whole}s", "-s", str(script_path), url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=whole + _GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        msg = f"wrk did not end within {error.timeout:g} s, expected {whole} s"
        raise BenchFailed(msg) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        msg = f"wrk ended with status {done.returncode}: {said[-1] if said else 'it said nothing'}"
        raise BenchFailed(msg)
    return parsed(done.stdout)


def parsed(output: str) -> Sample:
    """What wrk's output says; raises BenchFailed where it reports errors, or nothing."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if not lines:
        msg = f"wrk reported nothing, expected a line that begins with {MARK.strip()!r}"
        raise BenchFailed(msg)
    told = json.loads(lines[-1].removeprefix(MARK))
    troubles = [f"{count} {_TROUBLES[kind]}" for kind, count in told["errors"].items() if count]
    if troubles or not told["requests"]:
        saw = ", ".join(troubles) or "no answer at all"
        msg = f"of {told['requests']} requests wrk saw {saw}, expected 2xx for all"
        raise BenchFailed(msg)
    return Sample(
        requests=told["requests"],
        seconds=told["us"] / 1e6,
        p50_ms=told["p50_us"] / 1e3,
        p99_ms=told["p99_us"] / 1e3,
    )
