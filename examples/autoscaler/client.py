"""The controller's side of actd's HTTP interface, over one kept-alive connection of the standard library."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from examples.autoscaler.dynamics import ACTION_NAMES


class ServiceError(Exception):
    """The service did not answer as a controller needs it; the message says what to do or what it said."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a controller reads of one decision."""

    decision_id: str
    action_name: str
    version: str
    source: str
    reason: str | None
    prevented: tuple[str, ...]  # names of the constraints that changed the proposal

    @classmethod
    def read(cls, body: Mapping[str, object]) -> "Answer":
        """Take it from the response's JSON. Raises `ServiceError` where that is not this example's policy."""
        name = body.get("action_name")
        if name not in ACTION_NAMES or not isinstance(body.get("decision_id"), str):
            msg = f"the service answered the action {name!r}, expected one of {', '.join(ACTION_NAMES)}"
            raise ServiceError(msg)
        violations = body.get("violations")
        prevented = [
            str(violation.get("constraint"))
            for violation in (violations if isinstance(violations, list) else [])
            if isinstance(violation, dict) and violation.get("verdict") == "prevented"
        ]
        reason = body.get("reason")
        return cls(
            decision_id=str(body["decision_id"]),
            action_name=str(name),
            version=str(body.get("version")),
            source=str(body.get("source")),
            reason=None if reason is None else str(reason),
            prevented=tuple(prevented),
        )


class Client:
    """One connection to the service, opened at the first request and again when the service closed it while idle."""

    def __init__(self, url: str, *, run: str, timeout_seconds: float = 10.0) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            msg = f"the URL is {url!r}, expected a port from 0 to 65535"
            raise ServiceError(msg) from error
        if parts.scheme != "http" or not parts.hostname:
            msg = f"the URL is {url!r}, expected something like http://127.0.0.1:8080"
            raise ServiceError(msg)
        self._run, self._url, self._path = run, url, parts.path.rstrip("/")
        self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_seconds)
        self.last_action = ""

    def __repr__(self) -> str:
        return f"<Client of {self._url}, last action {self.last_action or 'none'}>"

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def act(
        self,
        *,
        session: str,
        observation: Mapping[str, float],
        observed_at: float,
        previous: str | None,
        reward: float | None,
    ) -> Answer:
        """Ask for the next action; `reward` belongs to `previous` (None: the episode starts).

        The request is named by run and time, so that one repeated on a new connection is not decided twice.
        """
        body: dict[str, object] = {
            "session": session,
            "request_id": f"{self._run}-{observed_at:.0f}",
            "observation": observation,
            "observed_at": observed_at,
            "previous": previous,
        }
        if reward is not None:
            body["feedback"] = {"reward": reward}
        answer = Answer.read(self._post("/act", body))
        self.last_action = answer.action_name
        return answer

    def close_episode(self, *, decision_id: str, reward: float, next_observation: Mapping[str, float]) -> None:
        """Give the last decision its reward; the trace was cut off, the service lives on: truncated, not terminated."""
        feedback = {
            "decision_id": decision_id,
            "reward": reward,
            "truncated": True,
            "next_observation": next_observation,
        }
        self._post("/feedback", feedback)

    def _post(self, path: str, body: Mapping[str, object]) -> Mapping[str, object]:
        status, content = self._exchange(self._path + path, json.dumps(body).encode())
        try:
            answer = json.loads(content)
        except ValueError as error:
            msg = f"{self._url}{path} answered {status} without JSON; is that actd?"
            raise ServiceError(msg) from error
        if not isinstance(answer, dict):
            msg = f"{self._url}{path} answered {status} with something else than an object; is that actd?"
            raise ServiceError(msg)
        if status >= 400:
            said = answer.get("error")
            said = said if isinstance(said, dict) else {}
            message = f"{self._url}{path} answered {status} {said.get('code', 'without a code')}"
            msg = f"{message}: {said.get('message', 'no message')}"
            raise ServiceError(msg)
        return answer

    def _exchange(self, path: str, content: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        for fresh in (self._connection.sock is None, True):
            try:
                self._connection.request("POST", path, content, headers)
                response = self._connection.getresponse()
                return response.status, response.read()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                self._connection.close()
                # A kept-alive connection that idled out is opened again, once; a new one that fails is an answer.
                if fresh:
                    raise self._unreachable() from error
            except TimeoutError as error:
                msg = f"{self._url} did not answer within {self._connection.timeout:g} s"
                raise ServiceError(msg) from error
            except OSError as error:
                raise self._unreachable() from error
            except http.client.HTTPException as error:
                msg = f"{self._url} does not speak HTTP; is that actd?"
                raise ServiceError(msg) from error
        raise self._unreachable()

    def _unreachable(self) -> ServiceError:
        return ServiceError(f"no service answers at {self._url}; start it with `make serve`")
