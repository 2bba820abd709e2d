"""What a request is answered with when it cannot be: one error with a code, the path in the body, and a sentence.

HTTP status codes are given in ``service/api/`` alone, from the code.
"""

from typing import ClassVar

import msgspec


class RequestRefused(Exception):
    """A request that is answered with an error."""

    code: ClassVar[str] = "refused"

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.message = message
        self.path = path

    def body(self) -> bytes:
        return msgspec.json.encode({"error": self.to_json()})

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "path": self.path, "message": self.message}


class NotJson(RequestRefused):
    """The body is not JSON."""

    code = "not_json"


class DoesNotFit(RequestRefused):
    """The body does not fit the schema."""

    code = "does_not_fit"


class TooLarge(RequestRefused):
    """The body is larger than the cap."""

    code = "too_large"


class WrongMediaType(RequestRefused):
    """The body is not declared as JSON."""

    code = "wrong_media_type"


class TooSlow(RequestRefused):
    """The body did not arrive in time."""

    code = "too_slow"


class NothingTaken(DoesNotFit):
    """None of the feedback could be taken; ``results`` say why, item by item."""

    def __init__(self, message: str, path: str, results: bytes) -> None:
        super().__init__(message, path)
        self._results = results

    def body(self) -> bytes:
        return msgspec.json.encode({"error": self.to_json(), "results": msgspec.Raw(self._results)})


class Conflict(RequestRefused):
    """The request id was used for another body, or a decision that is named is another session's."""

    code = "conflict"


class NoSafeActionLeft(RequestRefused):
    """Every rung of the ladder is refused by the constraints."""

    code = "no_safe_action"


class NotDurable(RequestRefused):
    """The decision could not be journalled, so it was not made."""

    code = "journal_unavailable"


class InternalFault(RequestRefused):
    """The service has a fault, which is in its log."""

    code = "internal"
