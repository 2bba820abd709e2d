"""Proving at start, where that is asked: whether the shield always leaves something to do, before it serves."""

import logging

from guards.errors import ProofUnavailable
from guards.proof.prove import prove
from guards.proof.verdict import Answer
from guards.records import Schema
from service.config import Config, ConfigInvalid

_log = logging.getLogger(__name__)


def proven(config: Config, schema: Schema) -> None:
    """Do what ``[proof]`` says; raises ConfigInvalid where the service may not serve."""
    asked = config.proof
    if asked.at_start == "off":
        return
    try:
        verdict = prove(
            schema,
            config.constraints,
            config.baseline.last_resort,
            seconds=asked.seconds,
            known_history=asked.history == "known",
            notes=False,
        )
    except ProofUnavailable as error:
        msg = f"proof.at_start: was {asked.at_start!r}, and {error}"
        raise ConfigInvalid(msg) from error
    told = _told(verdict.left)
    if verdict.outcome == "proved":
        _log.info("%s", told)
    elif asked.at_start == "strict" or (asked.at_start == "refuse" and verdict.outcome == "counterexample"):
        msg = f"constraints: {told}, expected it proved: proof.at_start is {asked.at_start!r}"
        raise ConfigInvalid(msg)
    else:
        _log.warning("%s", told)


def _told(answer: Answer) -> str:
    """An answer in one line."""
    return "; ".join(line.strip() for line in answer.lines())
