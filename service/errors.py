"""What a request is answered with when it cannot be: one error with a code, the path in the body, and a sentence.

HTTP status codes are given in ``service/api/`` alone, from the code.
"""

from typing import ClassVar

import msgspec


class RequestRefused(Exception):
    """A request that is answered with an error."""

    code: ClassVar[str] = "refused"

    def __init_subclass__(cls, code: str = "") -> None:
        cls.code = code or cls.code

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.message = message
        self.path = path

    def body(self) -> bytes:
        return msgspec.json.encode({"error": self.to_json()})

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "path": self.path, "message": self.message}


class NotJson(RequestRefused, code="not_json"):
    """The body is not JSON."""


class DoesNotFit(RequestRefused, code="does_not_fit"):
    """The body does not fit the schema."""


class TooLarge(RequestRefused, code="too_large"):
    """The body is larger than the cap."""


class WrongMediaType(RequestRefused, code="wrong_media_type"):
    """The body is not declared as JSON."""


class TooSlow(RequestRefused, code="too_slow"):
    """The body did not arrive in time."""


class NothingTaken(DoesNotFit):
    """None of the feedback could be taken; ``results`` say why, item by item."""

    def __init__(self, message: str, path: str, results: bytes) -> None:
        super().__init__(message, path)
        self._results = results

    def body(self) -> bytes:
        return msgspec.json.encode({"error": self.to_json(), "results": msgspec.Raw(self._results)})


class Conflict(RequestRefused, code="conflict"):
    """The request id was used for another body, or a decision that is named is another session's."""


class NoSafeActionLeft(RequestRefused, code="no_safe_action"):
    """Every rung of the ladder is refused by the constraints."""


class NotDurable(RequestRefused, code="journal_unavailable"):
    """The decision could not be journalled, so it was not made."""


class InternalFault(RequestRefused, code="internal"):
    """The service has a fault, which is in its log."""
