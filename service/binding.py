"""Binding: explorer, guards and baseline as the configuration has them, bound to what a version observes and does."""

from collections.abc import Callable

from export.spec import Box, Manifest
from guards.abstention import Doubts, Fresh
from guards.baselines import Policy, Propose, Remember
from guards.baselines.controllers import Pid
from guards.batched import Context, Shield
from guards.errors import GuardMisconfigured
from guards.records import Actions, Floats, Schema
from service.config import Config, ConfigInvalid
from service.explore import Acting
from service.flight import Plane
from service.ids import Keyring


def bound(
    config: Config,
    schema: Schema,
    manifest: Manifest,
    keyring: Keyring,
    advise: Callable[[Context], Floats] | None = None,
) -> Plane:
    """What all decisions have in common; the writer is not known yet. Raises ConfigInvalid.

    ``advise`` gives the numbers of the trusted policy that the baseline is, where it is one.
    """
    try:
        shield = Shield(config.constraints, schema)
        doubts = _doubts(config, schema, manifest)
    except GuardMisconfigured as error:
        raise ConfigInvalid(f"constraints.{error}") from error
    try:
        acting = Acting.of(config.explore, schema.action, manifest.squash, joint=shield.joins, scores=manifest.scores)
    except GuardMisconfigured as error:
        raise ConfigInvalid(f"explore.{error}") from error
    if config.mask == "required" and isinstance(schema.action, Box):
        msg = "mask: was 'required', expected 'optional': a Box has no choices to mask"
        raise ConfigInvalid(msg)
    propose, last_resort, remember = _ladder(config, schema, manifest, advise)
    return Plane(
        schema=schema,
        shield=shield,
        explorer=config.explore,
        acting=acting,
        baseline=propose,
        last_resort=last_resort,
        key=keyring.current,
        writer=bytes(8),
        config=config.digest[:16],
        durability=config.durability,
        mask_required=config.mask == "required",
        doubts=doubts,
        remember=remember,
    )


def _ladder(
    config: Config, schema: Schema, manifest: Manifest, advise: Callable[[Context], Floats] | None
) -> tuple[Propose, Actions | None, Remember | None]:
    """What is below the policy: the baseline's proposals, the last resort, and what the baseline remembers."""
    baseline, period = config.baseline, manifest.control_period_s
    if isinstance(baseline, Pid) and period is not None and baseline.forget_seconds < period:
        msg = f"baseline.forget_seconds: is {baseline.forget_seconds}, expected at least the policy's control period, "
        raise ConfigInvalid(f"{msg}{period} s, or it begins anew at each decision")
    try:
        propose = baseline.bind(schema, advise) if isinstance(baseline, Policy) else baseline.bind(schema)
        return propose, baseline.last(schema), baseline.remembers(schema)
    except GuardMisconfigured as error:
        raise ConfigInvalid(f"baseline.{error}") from error


def _doubts(config: Config, schema: Schema, manifest: Manifest) -> Doubts:
    """The doubts about a version's answers; raises GuardMisconfigured."""
    for i, one in enumerate(config.constraints):
        if isinstance(one, Fresh) and config.guard_clock == "observed_at":
            msg = f"{i}, {one.name!r}: needs guard_clock = 'service': by 'observed_at' no observation is ever old"
            raise GuardMisconfigured(msg)
    return Doubts.of(config.constraints, schema, manifest)
