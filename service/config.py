"""The configuration: one ``policy.toml``, read once into one frozen model.

Addresses and secrets may come from the environment instead, by these names: ``REDIS_URL``, ``ACTD_KEYRING``.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError

from export.spec.nearest import one_of
from export.spec.spaces import Frozen, Identifier, Label
from guards.abstention import AnyConstraint
from guards.baselines import AnyBaseline, Policy
from guards.breaker import Breaker
from service.decision.explore.explorers import AnyExplorer, Greedy

Seconds = Annotated[float, Field(gt=0, le=30 * 86400)]
_UNIONS: dict[int | str, Any] = {"explore": AnyExplorer, "constraints": AnyConstraint, "baseline": AnyBaseline}


class ConfigInvalid(Exception):
    """The configuration cannot be used; the message has the path in the file, what it was and what was expected."""


class Limits(Frozen):
    """What the service takes on."""

    deadline_ms: Annotated[float, Field(gt=0, le=60_000)] = 25.0
    body_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024
    batch_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    batch_rows: Annotated[int, Field(ge=1)] = 4096
    sessions: Annotated[int, Field(ge=1)] = 100_000
    # After so long without a success, a rung of the ladder is called stale while there is traffic.
    stale_seconds: Seconds = 60.0
    # While the journal cannot be written: no answers, or answers without exploration that are in no log.
    unlogged: Literal["refuse", "serve"] = "refuse"


class Rewards(Frozen):
    """How feedback becomes a decision's reward.

    ``first`` takes the first reward told, ``last`` the last and ``sum`` all that come within ``wait_seconds`` of the
    decision; where none comes, ``default`` is the reward.
    """

    wait_seconds: Seconds = 60.0
    default: float = 0.0
    aggregation: Literal["first", "sum", "last"] = "first"


class Retention(Frozen):
    """How long and how much is kept: of the journal what was shipped, and of the streams what was used.

    ``stream_bytes`` is for all streams of the service in a store together; where it is left out it is half of the
    server's ``maxmemory``, or 4 GiB where that has none.
    """

    journal_seconds: Seconds = 900.0
    journal_bytes: Annotated[int, Field(ge=1024 * 1024)] = 8 * 1024**3
    stream_hours: Annotated[float, Field(gt=0, le=10 * 365 * 24)] = 24.0
    stream_bytes: Annotated[int, Field(ge=1024 * 1024)] | None = None

    @property
    def forget_seconds(self) -> float:
        """How long after its end a writer is forgotten, once all that came of it is gone."""
        return max(3600.0, self.stream_hours * 3600)


class Signatures(Frozen):
    """Whose word an artefact needs before it is loaded: a signature by one of these public keys."""

    keys: Annotated[tuple[Path, ...], Field(min_length=1, max_length=64)]


class Proof(Frozen):
    """What is done at start about constraints that may leave nothing to do.

    They are proved to leave something before anything is served, each question within ``seconds``. Where they are not,
    ``warn`` only says so, ``refuse`` does not serve with a counterexample, and ``strict`` not without a proof. With
    ``history = "known"`` nothing is asked about sessions whose history is not here.
    """

    at_start: Literal["off", "warn", "refuse", "strict"] = "off"
    seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    history: Literal["any", "known"] = "any"


class Config(Frozen):
    """What a service does, whatever it has learned since."""

    name: Label
    policy: Path
    require_signature: Signatures | None = None
    facts: tuple[Identifier, ...] = ()
    explore: AnyExplorer = Greedy()
    # Whether a request has to say what is allowed: where one does not, the baseline answers.
    mask: Literal["optional", "required"] = "optional"
    constraints: tuple[AnyConstraint, ...] = ()
    proof: Proof = Proof()
    baseline: AnyBaseline
    breaker: Breaker = Breaker()
    limits: Limits = Limits()
    rewards: Rewards = Rewards()
    retention: Retention = Retention()
    durability: Literal["journal", "disk"] = "journal"
    # Whose clock constraints with seconds in them go by: this process's, or the caller's `observed_at`, which a
    # controller on simulated time needs and which trusts the controller with the cooldowns.
    guard_clock: Literal["service", "observed_at"] = "service"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; paths in it are relative to it. Raises ConfigInvalid."""
        try:
            told = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigInvalid(f"{path}: cannot be read ({error.strerror}), expected a TOML file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{path}: is not TOML ({error})") from error
        try:
            # Strict, and as JSON: "25" is no number and true is none either, while a list may still be a tuple.
            config = cls.model_validate_json(json.dumps(told, default=str), strict=True)
        except ValidationError as error:
            raise ConfigInvalid(f"{path}: {_first_problem(error, told)}") from error
        return config.within(path.parent)

    def within(self, folder: Path) -> Self:
        """The same with its paths taken from a folder."""
        paths: dict[str, object] = {"policy": folder / self.policy}
        if self.require_signature is not None:
            paths["require_signature"] = Signatures(keys=tuple(folder / key for key in self.require_signature.keys))
        if isinstance(self.baseline, Policy):
            paths["baseline"] = self.baseline.model_copy(update={"path": str(folder / self.baseline.path)})
        return self.model_copy(update=paths)

    def text(self) -> str:
        """Canonical JSON of everything that bears on a decision: artefacts are named by digest in the log."""
        whole: dict[str, Any] = dict.fromkeys(("policy", "require_signature", "proof", "retention"), True)
        told = self.model_dump(mode="json", exclude={**whole, "baseline": {"path"}, "limits": {"unlogged"}})
        return json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    @property
    def digest(self) -> str:
        """The sha256 of ``text``, by which records name the configuration."""
        return hashlib.sha256(self.text().encode("ascii")).hexdigest()


def _first_problem(error: ValidationError, told: object) -> str:
    """One sentence: where, what it was, what was expected."""
    first = error.errors(include_url=False)[0]
    where = _path(first["loc"], told) or "the file"
    if first["type"] == "missing":
        return f"{where}: is missing ({first['msg'].lower()})"
    if first["type"] == "extra_forbidden":
        return f"{where}: is not a setting that exists here"
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}"
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        kind = first["input"].get("kind")
        was = f"was {_shown(kind)}" if "kind" in first["input"] else "is missing"
        members = get_args(get_args(_UNIONS[first["loc"][0]])[0])
        return f"{where}.kind: {was}, expected {one_of(kind, [one.model_fields['kind'].default for one in members])}"
    return f"{where}: was {_shown(first['input'])}, expected: {first['msg']}"


def _shown(value: object) -> str:
    """A value as it stands in the file, in part where it is long."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _path(location: tuple[int | str, ...], told: object) -> str:
    """Where in the file: pydantic puts the kind of a union's member into the path, where the file has none."""
    parts, rest = list[str](), iter(location)
    for part in rest:
        parts.append(str(part))
        if isinstance(told, dict):
            told = told.get(part)
        elif isinstance(told, list) and isinstance(part, int) and part < len(told):
            told = told[part]
        else:
            told = None
        if isinstance(told, dict) and isinstance(told.get("kind"), str):
            next(rest, None)
    return ".".join(parts)
