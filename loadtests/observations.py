"""Made-up observations that fit the schema of ``GET /policy``.

On the standard library alone: the image that runs the locustfile has nothing else of this project.
"""

import random
from collections.abc import Mapping
from typing import Any

# Wider bounds than this say "any number"; measurements are made up near zero then.
WIDEST = 1e6
_ANY = 1000


def observation(space: Mapping[str, Any], rng: random.Random, *, listed: bool = False) -> Any:
    """An observation of ``space``: named fields as an object, or a list where ``listed``; an array as nested lists."""
    dtype = space["dtype"]
    if space["kind"] == "fields":
        named = {field["name"]: _number(dtype, field["low"], field["high"], rng) for field in space["fields"]}
        return list(named.values()) if listed else named
    return _nested(list(space["shape"]), dtype, space["low"], space["high"], rng)


def act_body(policy: Mapping[str, Any], session: str, rng: random.Random, *, listed: bool = False) -> dict[str, Any]:
    """A request's body for ``/act`` of the policy that ``GET /policy`` describes, with the facts that it declares."""
    body: dict[str, Any] = {"session": session, "observation": observation(policy["observation"], rng, listed=listed)}
    if policy["facts"]:
        body["facts"] = {name: round(rng.random(), 3) for name in policy["facts"]}
    return body


def _nested(shape: list[int], dtype: str, low: float | None, high: float | None, rng: random.Random) -> Any:
    if not shape:
        return _number(dtype, low, high, rng)
    return [_nested(shape[1:], dtype, low, high, rng) for _ in range(shape[0])]


def _number(dtype: str, low: float | None, high: float | None, rng: random.Random) -> float | int:
    if dtype == "uint8":
        low, high = (0 if low is None else low), (255 if high is None else high)
    low = None if low is None or low < -WIDEST else low
    high = None if high is None or high > WIDEST else high
    if not dtype.startswith("float"):
        first = int(low) if low is not None else int(high) - _ANY if high is not None else 0
        return rng.randint(first, int(high) if high is not None else first + _ANY)
    if low is not None and high is not None:
        return min(max(round(rng.uniform(low, high), 4), low), high)
    if low is not None:
        return max(round(low + rng.expovariate(1.0), 4), low)
    if high is not None:
        return min(round(high - rng.expovariate(1.0), 4), high)
    return round(rng.gauss(0.0, 1.0), 4)
