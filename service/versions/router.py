"""The router: which version decides for an assignment unit."""

from dataclasses import dataclass

from service.log.records import Track


@dataclass(frozen=True, slots=True)
class Assignment:
    """The track of a unit, and the probability with which it was assigned."""

    track: Track
    probability: float
    version: str


class Router:
    """Routes units to versions. Stable serves alone until a rollout adds a canary to the weights."""

    def __init__(self, stable: str) -> None:
        self._stable = Assignment(track="stable", probability=1.0, version=stable)

    def route(self, unit: str) -> Assignment:  # noqa: ARG002 - one version: every unit's is the same
        """The assignment of a unit."""
        return self._stable

    def __repr__(self) -> str:
        return f"<Router stable {self._stable.version}>"
