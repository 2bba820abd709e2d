"""Actions on the wire: how they are said in each kind of space, asked and answered by a whole data plane."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from service.api.action_json import actions_of
from service.config import ConfigInvalid
from service.errors import DoesNotFit
from tests import acting
from tests.acting import ARM, BOUNDED, GRID, SWITCHES
from tests.in_process import Reply, Serving, refusals, serving

REST = {"kind": "constant", "action": ["off", "closed", "still"]}
STILL = {"kind": "constant", "action": [0, 0, 0]}
FLAT = {"kind": "constant", "action": [0] * 6}
LATE = 1e-6


def whole(reply: Reply) -> dict[str, Any]:
    """The answer of a reply that has one."""
    assert reply.status == 200, reply.body
    told: dict[str, Any] = reply.json()
    return told


async def fits(served: Serving, path: str, reply: Reply) -> None:
    """Fail where a reply is not what the OpenAPI page says."""
    page = (await served.get("/openapi.json")).json()
    schema = page["paths"][path]["post"]["responses"][str(reply.status)]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(reply.json())


class TestFactors:
    """Several choices at once."""

    async def test_an_answer_has_every_choice_and_its_name(self, tmp_path: Path) -> None:
        """As it is in the journal; nothing is said of a measure that is a mass."""
        with serving(tmp_path, acting.factors(), baseline=REST, explore={"kind": "softmax"}) as served:
            served.permit()
            reply = await served.act()
            told, (record,) = whole(reply), served.decisions()

            assert told["action"] == list(record.action)  # type: ignore[arg-type]  # it is a tuple here
            assert told["action_names"] == [f.names[i] for f, i in zip(SWITCHES.factors, told["action"], strict=True)]
            assert told["propensity"] == record.propensity
            assert not {"action_name", "measure"} & set(told)
            assert record.explorer == "softmax"
            await fits(served, "/act", reply)

    @pytest.mark.parametrize(
        "allowed",
        [
            [False, True, True, True, False, False, False, False, True],
            [[False, True], [True, True, False], [False, False, False, True]],
            [["on"], ["half", "closed"], ["storm"]],
            [["on"], [True, True, False], ["storm"]],
            [0, 1, 1, 1, 0, 0, 0, 0, 1],
            [[0, 1], [1.0, 1.0, 0.0], [0, False, 0, True]],
            [["on"], [1, 1, 0], ["storm"]],
        ],
    )
    async def test_a_mask_is_said_in_truths_or_names(self, tmp_path: Path, allowed: object) -> None:
        """All in a row, or factor by factor; truths also as NumPy's int8 and floats are written."""
        with serving(tmp_path, acting.factors(), baseline=REST) as served:
            told = whole(await served.act(allowed=allowed))
            (record,) = served.decisions()

            assert told["action_names"][0] == "on"
            assert told["action_names"][2] == "storm"
            assert record.mask == record.allowed == [False, True, True, True, False, False, False, False, True]

    @pytest.mark.parametrize(
        ("allowed", "path", "problem"),
        [
            ([True] * 8, "$.allowed", "is not a mask, expected 9 truths, or 3 lists of choices"),
            ([], "$.allowed", "is not a mask"),
            ([["on"], ["half"]], "$.allowed", "is not a mask"),
            ([["on"], True, ["storm"]], "$.allowed", "is not a mask"),
            ([["on"], ["MARKERX"], ["storm"]], "$.allowed[1]", "is not a list of choices, expected some of ['closed'"),
            ([["on"], [True], ["storm"]], "$.allowed[1]", "has 1 truths, expected 3, or names of choices"),
            ([["on"], [True, "half", False], ["storm"]], "$.allowed[1]", "is not a list of choices"),
            ([["on"], ["half"], []], "$.allowed[2]", "truths, expected 4"),
            ([[False, False], ["half"], ["storm"]], "$.allowed[0]", "forbids every choice"),
            ([False] * 9, "$.allowed[0]", "forbids every choice"),
            ([0] * 9, "$.allowed[0]", "forbids every choice"),
            ([1] * 8, "$.allowed", "is not a mask, expected 9 truths, or 3 lists of choices"),
            ([1, 1, 1, 1, 1, 1, 1, 1, 2], "$.allowed[8]", "expected `int` <= 1"),
            ([[0, 1], [1, 2, 0], [1, 0, 0, 0]], "$.allowed[1][1]", "expected `int` <= 1"),
            ([[0, 1], [1, 0.5, 0], [1, 0, 0, 0]], "$.allowed[1][1]", "expected a whole number"),
            ([["on"], [1, "half", 0], ["storm"]], "$.allowed[1]", "is not a list of choices"),
            (["on", "half", "storm"], "$.allowed[0]", "expected `bool | int | float | array`, got `str`"),
        ],
    )
    async def test_a_mask_that_does_not_fit_is_refused(
        self, tmp_path: Path, allowed: object, path: str, problem: str
    ) -> None:
        """With its place, and without an echo."""
        with serving(tmp_path, acting.factors(), baseline=REST) as served:
            error = refusals(await served.act(allowed=allowed), "MARKERX")

            assert (error["code"], error["path"]) == ("does_not_fit", path)
            assert problem in error["message"]
            assert served.decisions() == []

    @pytest.mark.parametrize(
        "executed", [[1, 0, 3], ["on", "closed", "storm"], ["on", 0, 3], [1.0, 0.0, 3.0], ["on", -0.0, 3e0]]
    )
    async def test_what_was_executed_is_told_by_index_or_name(self, tmp_path: Path, executed: object) -> None:
        """And kept as indices, which may be written with a point."""
        with serving(tmp_path, acting.factors(), baseline=REST) as served:
            first = whole(await served.act())["decision_id"]
            await served.post("/feedback", {"decision_id": first, "executed_action": executed})

            assert [told.executed_action for told in served.feedback()] == [(1, 0, 3)]

    @pytest.mark.parametrize(
        ("executed", "path"),
        [
            ([1, 0], "$.executed_action"),
            ([1, 0, 4], "$.executed_action[2]"),
            ([1, -1, 0], "$.executed_action[1]"),
            ([1, "MARKERX", 0], "$.executed_action[1]"),
            ([1, 0.5, 0], "$.executed_action[1]"),
            ([1, 0, 4.0], "$.executed_action[2]"),
            ([1, 1e300, 0], "$.executed_action[1]"),
            ([1, True, 0], "$.executed_action[1]"),
            (1, "$.executed_action"),
        ],
    )
    async def test_what_cannot_have_been_executed_is_refused(self, tmp_path: Path, executed: object, path: str) -> None:
        """With its place."""
        with serving(tmp_path, acting.factors(), baseline=REST) as served:
            first = whole(await served.act())["decision_id"]
            reply = await served.post("/feedback", {"decision_id": first, "executed_action": executed})
            (result,) = reply.json()["results"]

            assert reply.status == 422
            assert (result["status"], result["error"]["path"]) == ("invalid", path)
            assert b"MARKERX" not in reply.body

    async def test_the_baseline_answers_with_a_whole_action(self, tmp_path: Path) -> None:
        """Where the policy is late; it passes the same mask, else the last resort leaves, or nothing."""
        resort = {**REST, "last_resort": ["off", "half", "still"]}
        for baseline, outcome in ((REST, 503), (resort, 200)):
            with serving(tmp_path / str(outcome), acting.factors(), baseline=baseline) as served:
                late = whole(await served.act(deadline_ms=LATE))
                refused = await served.act(deadline_ms=LATE, allowed=[["on"], ["half"], ["storm"]])

                assert (late["source"], late["action"], late["propensity"]) == ("baseline", [0, 0, 0], 1.0)
                assert refused.status == outcome
        assert refused.json()["action_names"] == ["off", "half", "still"]
        assert [v["verdict"] for v in refused.json()["violations"]] == ["prevented", "executed"]

    async def test_the_history_remembers_the_whole_action(self, tmp_path: Path) -> None:
        """And with it whether it changed."""
        with serving(tmp_path, acting.factors(), baseline=REST) as served:
            await served.act(previous=None, allowed=[["on"], ["half"], ["storm"]])
            await served.act(allowed=[["on"], ["half"], ["still"]])
            await served.act()

            assert [record.state.action for record in served.decisions()] == [-1, (1, 1, 3), (1, 1, 0)]
            assert [record.state.changed_at is None for record in served.decisions()] == [True, True, False]

    async def test_the_readings_are_by_factor(self, tmp_path: Path) -> None:
        """The report counts each factor's choices, the metrics have one label for all, the policy says the space."""
        with serving(tmp_path, acting.factors(), baseline=REST) as served:
            for _ in range(3):
                await served.act(allowed=[["on"], ["half"], ["storm"]])
            report, policy = (await served.get("/report")).json(), (await served.get("/policy")).json()
            metrics = (await served.get("/metrics")).body.decode()

        mix = {name: count for name, count in report["actions"].items() if count}
        assert mix == {"pump=on": 3, "valve=half": 3, "fan=storm": 3}
        assert len(report["actions"]) == SWITCHES.width
        assert 'action="multi_discrete"' in metrics
        assert (policy["action"], policy["actions"]) == (json.loads(SWITCHES.model_dump_json()), [])


class TestBox:
    """Numbers."""

    @pytest.mark.parametrize(
        ("space", "form", "baseline"), [(ARM, [3], STILL), (GRID, [2, 3], FLAT)], ids=["arm", "grid"]
    )
    async def test_an_answer_has_the_shape_of_the_box(
        self, tmp_path: Path, space: Any, form: list[int], baseline: object
    ) -> None:
        """The numbers that are in the journal, to the last bit, and what their propensity is of."""
        explore = {"kind": "gaussian"}
        with serving(tmp_path, acting.gaussian(space), baseline=baseline, explore=explore) as served:
            served.permit()
            reply = await served.act()
            told, (record,) = whole(reply), served.decisions()
            rows = told["action"] if len(form) == 2 else [told["action"]]

            assert [len(rows), len(rows[0])] == [1, *form][-2:]
            assert tuple(number for row in rows for number in row) == record.action
            assert told["measure"] == record.measure != "mass"
            assert not {"action_name", "action_names"} & set(told)
            assert (record.allowed, record.mask) == ([], None)
            await fits(served, "/act", reply)

    async def test_greedily_it_is_certain(self, tmp_path: Path) -> None:
        """Without a lease: what the policy means, and no measure is said."""
        with serving(tmp_path, acting.gaussian(BOUNDED), baseline={**STILL, "action": [0, 0]}) as served:
            told = whole(await served.act(observation=[0.25, 0.0, 1.0]))

            assert (told["action"], told["propensity"]) == ([0.25, 0.25], 1.0)
            assert "measure" not in told

    async def test_a_mask_is_refused(self, tmp_path: Path) -> None:
        """There is nothing to mask; null is none."""
        with serving(tmp_path, acting.gaussian(), baseline=STILL) as served:
            error = refusals(await served.act(allowed=[True]), "true")

            assert (error["code"], error["path"]) == ("does_not_fit", "$.allowed")
            assert whole(await served.act(allowed=None))["source"] == "policy"

    @pytest.mark.parametrize(
        ("executed", "kept"),
        [([[1, 2, 3], [4, 5, 6.5]], (1, 2, 3, 4, 5, 6.5)), ([[9e9, 0, 0], [0, 0, -0.25]], (9e9, 0, 0, 0, 0, -0.25))],
    )
    async def test_what_was_executed_is_told_in_its_shape(
        self, tmp_path: Path, executed: object, kept: tuple[float, ...]
    ) -> None:
        """It may stray from the bounds, as what is measured does."""
        with serving(tmp_path, acting.gaussian(GRID), baseline=FLAT) as served:
            first = whole(await served.act())["decision_id"]
            await served.post("/feedback", {"decision_id": first, "executed_action": executed})

            assert [told.executed_action for told in served.feedback()] == [kept]

    @pytest.mark.parametrize(
        "executed", [[1, 2, 3, 4, 5, 6], [[1, 2, 3]], [[1, 2, 3], [4, 5]], [["a", 2, 3], [4, 5, 6]], 1, "up"]
    )
    async def test_another_shape_is_refused(self, tmp_path: Path, executed: object) -> None:
        """As every other field that does not fit."""
        with serving(tmp_path, acting.gaussian(GRID), baseline=FLAT) as served:
            first = whole(await served.act())["decision_id"]
            reply = await served.post("/feedback", {"decision_id": first, "executed_action": executed})

            assert reply.status == 422
            assert reply.json()["results"][0]["status"] == "invalid"

    async def test_the_readings_are_by_number(self, tmp_path: Path) -> None:
        """The report has the least, the mean and the most of each; before there are any, nothing."""
        with serving(tmp_path, acting.gaussian(BOUNDED), baseline={**STILL, "action": [0, 0]}) as served:
            before = (await served.get("/report")).json()["actions"]
            for cpu in (0.0, 0.5, 1.0):
                await served.act(observation=[cpu, 0.0, 1.0])
            report, metrics = (await served.get("/report")).json(), (await served.get("/metrics")).body.decode()

        assert before == {}
        assert report["actions"] == {name: {"min": 0, "mean": 0.5, "max": 1} for name in ("left", "right")}
        assert 'action="box"' in metrics


def test_whoever_asks_for_a_mask_over_numbers_is_told() -> None:
    """Also without a decoder before it."""
    with pytest.raises(DoesNotFit, match="a Box has no choices to mask"):
        actions_of(ARM).mask([True])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"explore": {"kind": "softmax"}}, "explore.kind: 'softmax' does not draw box actions"),
        ({"explore": {"kind": "gaussian", "noise": 0.5}}, "explore.noise: was 0.5"),
        ({"baseline": {"kind": "constant", "action": "hold"}}, "baseline.action: the action 'hold' is not known"),
        (
            {"baseline": {**STILL, "last_resort": [9, 0, 0]}},
            "baseline.last_resort: the action [9, 0, 0] is out of bounds",
        ),
        (
            {"constraints": [{"kind": "cooldown", "name": "r", "actions": ["hold"], "seconds": 1}]},
            "constraints.0, 'r': is for actions to choose from, and a box action has none",
        ),
    ],
)
def test_what_does_not_fit_the_space_is_refused_at_start(tmp_path: Path, settings: Any, problem: str) -> None:
    """With its path in the file."""
    with (
        pytest.raises(ConfigInvalid) as refused,
        serving(tmp_path, acting.gaussian(), **{"baseline": STILL, **settings}),
    ):
        pass

    assert problem in str(refused.value)


def test_a_gaussian_explorer_is_for_numbers_alone(tmp_path: Path) -> None:
    """Choices have no std."""
    with (
        pytest.raises(ConfigInvalid, match=r"explore\.kind: 'gaussian' does not draw multi_discrete actions"),
        serving(tmp_path, acting.factors(), baseline=REST, explore={"kind": "gaussian"}),
    ):
        pass
