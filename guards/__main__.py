"""The command ``python -m guards``: prove that a shield always leaves something to do, or explain one situation."""

import argparse
import dataclasses
import json
import math
import sys
import tomllib
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from export.spec.artefact import open_artefact
from export.spec.errors import ArtefactError
from export.spec.nearest import DOZEN, one_of
from export.spec.spaces import Identifier
from guards.abstention import AnyConstraint
from guards.actions import Choices, Written
from guards.baselines import AnyBaseline, Policy
from guards.constraints import Constraint
from guards.errors import GuardMisconfigured, ProofUnavailable
from guards.proof.scenario import Before, Scenario
from guards.proof.verdict import explain
from guards.records import Schema
from guards.shield import Shield

_EXIT = {"proved": 0, "counterexample": 1, "undecided": 3}
_WRONG = 2
# What is unforeseen is never taken for a counterexample.
_FAULT = 70
_CODES = "Exit codes: 0 proved or explained, 1 counterexample, 2 wrong usage or configuration, 3 undecided, 70 a fault."


class _Wrong(Exception):
    """The command line or the configuration cannot be used."""


class Configured(NamedTuple):
    """What a configuration says about the shield."""

    schema: Schema
    constraints: tuple[Constraint, ...]
    last_resort: Written | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    options = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], tuple[int, str]] = options.run
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large for a double has an answer here
            code, text = run(options)
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except (_Wrong, GuardMisconfigured, ProofUnavailable) as error:
        sys.stderr.write(f"guards: {error}\n")
        return _WRONG
    except Exception:  # noqa: BLE001 - no fault may end with the exit code of a verdict
        sys.stderr.write(f"guards: a fault of the command, and no verdict:\n{traceback.format_exc()}")
        return _FAULT
    return code


def read(path: Path) -> Configured:
    """Read what a ``policy.toml`` says about the shield; the rest of it is the service's."""
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _Wrong(f"{path}: cannot be read ({error.strerror}), expected a TOML file") from error
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"{path}: is not TOML ({error})") from error
    policy = path.parent / _part(path, "policy", str, told.get("policy"))
    try:
        manifest = open_artefact(policy.read_bytes()).manifest
    except OSError as error:
        raise _Wrong(f"{path}: policy: {policy} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _Wrong(f"{path}: policy: was {str(policy)!r}, expected a path ({error})") from error
    except ArtefactError as error:
        raise _Wrong(f"{path}: policy: {policy}: {error}") from error
    facts = _part(path, "facts", tuple[Identifier, ...], told.get("facts", []))
    written = _part(path, "constraints", list[dict[str, Any]], told.get("constraints", []))
    constraints = tuple(_part(path, f"constraints.{i}", AnyConstraint, one) for i, one in enumerate(written))
    baseline = _part(path, "baseline", AnyBaseline, told["baseline"]) if "baseline" in told else None
    where = "facts: "
    try:
        schema = Schema.of(manifest, facts)
        where = "constraints."
        Shield(constraints, schema)
        where = "baseline."
        if baseline is not None:
            baseline.last(schema)
            if not isinstance(baseline, Policy):  # an older policy is the service's to load
                baseline.bind(schema)
    except GuardMisconfigured as error:
        raise _Wrong(f"{path}: {where}{error}") from error
    return Configured(schema, constraints, None if baseline is None else baseline.last_resort)


def _part(path: Path, where: str, kind: Any, told: object) -> Any:
    """One part of the file, as strictly as the service reads it."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(told, default=str), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # The first step into a union is the name of its member, which the file does not have.
        steps = first["loc"][1:] if isinstance(told, dict) else first["loc"]
        place = ".".join([where, *map(str, steps)])
        was = repr(first["input"])
        was = was if len(was) <= 80 else was[:77] + "..."
        raise _Wrong(f"{path}: {place}: was {was}, expected: {first['msg']}") from error


def _prove(options: argparse.Namespace) -> tuple[int, str]:
    from guards.proof.prove import prove  # noqa: PLC0415 - explaining does not need it

    told = read(options.file)
    asked = {"seconds": options.seconds, "known_history": options.known_history}
    verdict = prove(told.schema, told.constraints, told.last_resort, **asked)
    shown = {"outcome": verdict.outcome, **dataclasses.asdict(verdict)}
    return _EXIT[verdict.outcome], json.dumps(shown, indent=2) if options.json else str(verdict)


def _explain(options: argparse.Namespace) -> tuple[int, str]:
    told = read(options.file)
    situation = Scenario(
        observation=_numbers("--observation", options.observation, told.schema.fields, whole=True),
        facts={**dict.fromkeys(told.schema.facts), **_numbers("--facts", options.facts, told.schema.facts)},
        past=_past(options, told),
    )
    explanation = explain(told.schema, told.constraints, situation)
    return 0, json.dumps(dataclasses.asdict(explanation), indent=2) if options.json else "\n".join(explanation.lines())


def _numbers(option: str, text: str, names: Sequence[str], *, whole: bool = False) -> dict[str, float]:
    """Named numbers from JSON: an object, or for a ``whole`` observation a list in the schema's order too."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"{option}: is not JSON ({error})") from error
    if whole and isinstance(told, list) and len(told) == len(names):
        told = dict(zip(names, told, strict=True))
    if not isinstance(told, dict) or (whole and told.keys() != set(names)) or not told.keys() <= set(names):
        which = "all of" if whole else "some of"
        raise _Wrong(f"{option}: was {text}, expected a JSON object with {which} {', '.join(names) or 'no names'}")
    for name, value in told.items():
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise _Wrong(f"{option}.{name}: was {value!r}, expected a finite number")
    return {name: float(told[name]) for name in names if name in told}


def _past(options: argparse.Namespace, configured: Configured) -> Before:
    """What the options say happened in the session before."""
    step = (0 if options.previous is None else 1) if options.step is None else options.step
    if step < 0 or (step == 0) is not (options.previous is None):
        raise _Wrong(f"--step: was {step}, expected 0 without --previous, and more with it")
    used = dict(options.used)
    for name in [*used, *([] if options.previous is None else [options.previous])]:
        Choices(configured.schema).index(name)
    for option, told in (("--spent", options.spent), ("--changed", options.changed)):
        names = [one.name for one in configured.constraints if f"--{one.told}" == option]
        for name in dict(told):
            if name not in names:
                known = one_of(name, map(repr, names), DOZEN) if names else "one of none"
                raise _Wrong(f"{option}: was {name!r}, expected {known}")
    if options.previous is None and (options.spent or options.changed or options.switched):
        raise _Wrong("--spent, --changed, --switched: say what happened before, expected with --previous")
    ago = options.seconds_since_change
    if not options.unknown_history and options.switched:
        last = min(options.switched)
        ago = last if ago is None else ago
        if last < ago:
            raise _Wrong(f"--switched: was {last:g}, expected no less than --seconds-since-change, which is {ago:g}")
    return Before(
        known=not options.unknown_history,
        step=step,
        previous=options.previous,
        seconds_since_change=ago,
        used=used,
        spent=dict(options.spent),
        switched=tuple(sorted({*options.switched} - {ago})),
        changed=dict(options.changed),
    )


def _seconds(text: str, whole: str = "", expected: str = "a number of seconds") -> float:
    """Seconds on the command line, where they may be a part of something."""
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    msg = f"was {whole or text!r}, expected {expected}"
    raise argparse.ArgumentTypeError(msg)


def _use(text: str) -> tuple[str, float]:
    """A name and how many seconds ago it was."""
    name, _, seconds = text.rpartition("=")
    return name, _seconds(seconds)


def _spent(text: str) -> tuple[str, float]:
    """A name and how much was spent of it."""
    name, _, amount = text.rpartition("=")
    return name, _seconds(amount, text, "NAME=AMOUNT")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m guards", description=__doc__, epilog=_CODES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    prove = commands.add_parser("prove", help="prove that something is always left to do", epilog=_CODES)
    prove.set_defaults(run=_prove)
    prove.add_argument("--seconds", type=_seconds, default=2.0, metavar="S", help="time for a question (%(default)g)")
    known = prove.add_argument("--known-history", action="store_true")
    known.help = "say nothing of sessions whose history is not here, as after a restart"
    shows = commands.add_parser("explain", help="say what each constraint says of each action", epilog=_CODES)
    shows.set_defaults(run=_explain)
    _happened(shows)
    for command in (prove, shows):
        command.add_argument("file", type=Path, metavar="policy.toml")
        command.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _happened(parser: argparse.ArgumentParser) -> None:
    """The options that say what a situation is, and what happened before."""
    add = parser.add_argument
    add("--observation", required=True, metavar="JSON", help='all named fields: {"cpu": 0.9, ...} or a list of them')
    add("--facts", default="{}", metavar="JSON", help="the facts that a request gives")
    add("--previous", metavar="ACTION", help="the last executed action (else: an episode begins)")
    add("--seconds-since-change", type=_seconds, metavar="S", help="since the executed action last changed")
    add("--step", type=int, metavar="N", help="decisions since the episode began")
    use = add("--used", type=_use, action="append", default=[], metavar="ACTION=SECONDS_AGO")
    use.help = "when an action was last executed; may be repeated"
    spent = add("--spent", type=_spent, action="append", default=[], metavar="NAME=AMOUNT")
    spent.help = "what was spent of a budget within its seconds (else: as if nothing); may be repeated"
    switched = add("--switched", type=_seconds, action="append", default=[], metavar="SECONDS_AGO")
    switched.help = "when the executed action changed before that, for max_switches; may be repeated"
    changed = add("--changed", type=_use, action="append", default=[], metavar="NAME=SECONDS_AGO")
    changed.help = "when the value of a rate_limit last changed (else: as --used and --seconds-since-change say)"
    add("--unknown-history", action="store_true", help="the session's history is not here, as after a restart")


if __name__ == "__main__":
    sys.exit(main())
