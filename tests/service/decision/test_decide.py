"""The path of a decision: what is decided and recorded for every row, whatever fails on the way."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from export.spec import Box, Field
from guards.abstention import Confidence, Fresh, Quorum
from guards.baselines import Constant, Rules
from guards.baselines.lookup import When
from guards.constraints import Budget, Constraint, Cooldown, Rule
from guards.errors import BreakerOpen, DeadlineExceeded, InferenceFailed, KillSwitch, PolicyUnavailable
from guards.records import History
from guards.shield import Violation
from service.decision.batch import Batch, Behaviour
from service.decision.explore.explorers import EpsilonGreedy, Greedy, Normal, Softmax
from service.decision.sessions import SessionState
from service.log.ids import Keyring, body_of_token, public_id_of_body
from service.log.records import HEAD_LIMIT, Decision, Packed, Refused, unlisted
from service.versions.router import Assignment
from tests.acting import BOUNDED, SWITCHES, acting_behaviour
from tests.fakes import KEY, NOW, WRITER, Fickle, asked, batch_of, behaviour_of, manifest_of, recorded, schema_of

# The ranking is up, jump, down, rest, drop, hold.
HEAD = np.array([0, 5, 3, 4, 2, 1], dtype=np.float32)
NO_UP = Rule(name="no up", forbid="action == 'up'")
FREE = Box(fields=tuple(Field(name=f"n{i}") for i in range(8)))
NOTHING = Rule(name="nothing", forbid="True")
CANARY = Assignment(track="canary", probability=0.1, version="fake-1")


def decided(behaviour: Behaviour, batch: Batch, head: np.ndarray | PolicyUnavailable) -> list[Decision]:
    """Decide a batch in which every row is answered."""
    records = recorded(behaviour, batch, head)
    assert all(isinstance(record, Decision) for record in records)
    return [record for record in records if isinstance(record, Decision)]


def one(behaviour: Behaviour, head: "np.ndarray | PolicyUnavailable" = HEAD, **changes: Any) -> Decision:
    """Decide a single request."""
    heads = head if isinstance(head, PolicyUnavailable) else head[None, :]
    return decided(behaviour, batch_of([asked(**changes)]), heads)[0]


def weighed(behaviour: Behaviour, batch: Batch) -> dict[int, list[float]]:
    """What each executed action counts for, by row."""
    made = {i: record for i, record in enumerate(batch.records) if isinstance(record, Decision)}
    return {i: behaviour.shield.weights(batch.rows[i], record.action) for i, record in made.items()}


class TestPolicy:
    """Rows that the policy decides."""

    def test_the_best_action_is_done(self) -> None:
        """By a greedy policy without constraints: as proposed, with certainty, and nothing to report."""
        decision = one(behaviour_of())

        assert (decision.proposed, decision.action, decision.propensity) == (1, 1, 1.0)
        assert (decision.source, decision.reason, decision.violations) == ("policy", None, [])
        assert (decision.propensity_ok, decision.why_not_ok, decision.explored) == (True, None, False)

    def test_what_was_known_is_on_the_record(self) -> None:
        """Request, history, batch and behaviour: everything that a replay needs."""
        history = History(known=True, since=NOW - 60, step=4, action=2, changed_at=NOW - 9, used={2: NOW - 30})
        mask = [True, True, False, True, True, True]
        row = asked(
            session="loop 7",
            facts={"price": 2.5},
            mask=mask,
            options={"explore": False},
            explore=False,
            at=NOW + 0.5,
            observed_at=NOW - 0.25,
            entry=SessionState("the one before", "its first", history),
        )
        batch = batch_of([row], seq=12, assignment=CANARY)

        (decision,) = decided(behaviour_of(), batch, HEAD[None, :])

        assert (decision.seq, decision.ms, decision.v) == (12, int(NOW * 1000), 1)
        assert (decision.session, decision.episode, decision.step) == ("loop 7", "its first", 4)
        assert (decision.previous, decision.state) == ("the one before", history)
        assert (decision.at, decision.observed_at) == (NOW + 0.5, NOW - 0.25)
        assert (decision.track, decision.track_probability) == ("canary", 0.1)
        assert (decision.version, decision.digest, decision.config) == ("fake-1", "d" * 64, "c" * 64)
        assert (decision.observation, decision.facts, decision.mask) == ([0.5, 0.0, 3.0], {"price": 2.5}, mask)
        assert (decision.options, decision.allowed) == ({"explore": False}, mask)
        assert (decision.explorer, decision.key, decision.measure) == ("greedy", 1, "mass")
        assert (decision.generation, decision.durability) == (7, "journal")
        assert decision.durations == {"wait_us": 1000, "infer_us": 42}
        assert decision.head is not None
        np.testing.assert_array_equal(decision.head.array(), HEAD)

    def test_its_id_names_its_place(self) -> None:
        """Key, writer, time, sequence and track, row by row."""
        batch = batch_of([asked(), asked()], seq=12, assignment=CANARY)

        decisions = decided(behaviour_of(), batch, np.stack([HEAD] * 2))

        places = [Keyring({1: KEY}).place(decision.id) for decision in decisions]
        assert [(place.writer, place.seq, place.track) for place in places if place] == [
            (WRITER.hex(), 12, "canary"),
            (WRITER.hex(), 13, "canary"),
        ]

    def test_the_first_decision_names_its_episode(self) -> None:
        """By its own id, without the part that proves it; the episode of one that continues elsewhere is not known."""
        first, lost = (
            one(behaviour_of()),
            one(behaviour_of(), entry=SessionState("elsewhere", None, History(known=False, since=NOW))),
        )

        assert (first.episode, first.step) == (public_id_of_body(body_of_token(first.id)), 0)
        assert (lost.episode, lost.step, lost.previous) == (None, None, "elsewhere")

    def test_a_masked_proposal_is_an_intervention_with_its_cause(self) -> None:
        """Every constraint that denies the proposal is named, nobody who only warns."""
        warns = Rule(name="warns", forbid="action == 'up'", mode="warn")

        decision = one(behaviour_of([NO_UP, warns]), mask=[True, False, True, True, True, True])

        assert (decision.proposed, decision.action, decision.propensity) == (1, 3, 1.0)
        assert decision.violations == [Violation("allowed", "prevented"), Violation("no up", "prevented")]

    @pytest.mark.parametrize("mode", ["warn", "audit"])
    def test_what_only_reports_is_reported_of_what_was_done(self, mode: Any) -> None:
        """The action stays."""
        told = Rule(name="told", forbid="action == 'up'", mode=mode)

        decisions = decided(behaviour_of([told]), batch_of([asked()] * 2), np.stack([HEAD, HEAD[::-1]]))

        assert [decision.action for decision in decisions] == [1, 4]
        assert [decision.violations for decision in decisions] == [[Violation("told", "reported", mode)], []]

    def test_rows_with_and_without_a_mask_share_a_batch(self) -> None:
        """A request without a mask may do everything."""
        rows = [asked(), asked(mask=[False, False, False, False, False, True])]

        masked = decided(behaviour_of(), batch_of(rows), np.stack([HEAD] * 2))

        assert [decision.action for decision in masked] == [1, 5]
        assert [decision.mask for decision in masked] == [None, rows[1].mask]
        assert masked[0].allowed == [True] * 6

    def test_a_mask_may_be_required(self) -> None:
        """Whoever gives none is answered by the baseline, under the same constraints, and it is said why."""
        behaviour = replace(behaviour_of([NO_UP]), mask_required=True)
        rows = [asked(), asked(mask=[True] * 6)]

        bare, masked = decided(behaviour, batch_of(rows), np.stack([HEAD] * 2))

        assert [(d.action, d.source, d.reason) for d in (bare, masked)] == [
            (0, "baseline", "MaskMissing"),
            (3, "policy", None),
        ]
        assert (bare.propensity, bare.propensity_ok) == (1.0, True)

    def test_an_answer_of_another_length_is_none(self) -> None:
        """Too few numbers, too many, too few rows: the baseline answers all of the batch."""
        for shape in ((2, 5), (2, 7), (1, 6), (2, 6, 1), (2,)):
            decisions = decided(behaviour_of(), batch_of([asked()] * 2), np.zeros(shape, dtype=np.float32))

            assert [(d.source, d.reason, d.head) for d in decisions] == [("baseline", "InvalidOutput", None)] * 2

    def test_facts_reach_the_rules_by_name(self) -> None:
        """In the schema's order, whatever the request's; what was not told fails, and so forbids."""
        rule = Rule(name="r", forbid="action == 'up' and price > budget")
        told = ({"price": 1, "budget": 2}, {"price": 2, "budget": 1}, {"price": 1}, None)

        decisions = decided(
            behaviour_of([rule]), batch_of([asked(facts=facts) for facts in told]), np.stack([HEAD] * 4)
        )

        assert [decision.action for decision in decisions] == [1, 3, 3, 3]

    def test_a_cooldown_goes_by_the_history_of_its_own_row(self) -> None:
        """And by the request's own time."""
        cooldown = Cooldown(name="c", actions=("up",), seconds=60)
        used = SessionState("b", "e", History(known=True, since=NOW, used={1: NOW}))
        rows = [asked(entry=used, now=NOW + 59), asked(entry=used, now=NOW + 60), asked()]

        decisions = decided(behaviour_of([cooldown]), batch_of(rows), np.stack([HEAD] * 3))

        assert [decision.action for decision in decisions] == [3, 1, 1]


class TestExploring:
    """Who may explore, and what is said of those who may not."""

    BEHAVIOUR = behaviour_of(explorer=EpsilonGreedy(epsilon=1.0))

    def test_it_explores_with_a_lease_and_leave(self) -> None:
        """With the explorer of the configuration, and its propensity."""
        decisions = decided(self.BEHAVIOUR, batch_of([asked()] * 50), np.stack([HEAD] * 50))

        assert len({decision.action for decision in decisions}) == 6
        assert {decision.explorer for decision in decisions} == {"epsilon_greedy"}
        assert {decision.propensity for decision in decisions} == {1 / 6}
        assert {decision.explored for decision in decisions if decision.action == 1} <= {False}
        assert {decision.explored for decision in decisions if decision.action != 1} == {True}

    @pytest.mark.parametrize(("leave", "lease"), [(False, True), (True, False), (False, False)])
    def test_it_is_greedy_without_leave_or_lease(self, leave: bool, lease: bool) -> None:
        """And says so: such rows carry no support."""
        rows = [asked(explore=leave)] * 50

        decisions = decided(self.BEHAVIOUR, batch_of(rows, may_explore=lease), np.stack([HEAD] * 50))

        assert {(d.action, d.explorer, d.propensity, d.explored) for d in decisions} == {(1, "greedy", 1.0, False)}

    def test_rows_with_and_without_leave_share_a_batch(self) -> None:
        """Each goes by its own."""
        rows = [asked(explore=bool(i % 2)) for i in range(50)]

        decisions = decided(self.BEHAVIOUR, batch_of(rows), np.stack([HEAD] * 50))

        assert {d.explorer for d in decisions[1::2]} == {"epsilon_greedy"}
        assert {(d.action, d.explorer, d.propensity) for d in decisions[::2]} == {(1, "greedy", 1.0)}
        assert {d.propensity for d in decisions[1::2]} == {1 / 6}

    def test_two_rows_alike_are_drawn_independently(self) -> None:
        """The draw is made from the id, and no two are the same."""
        first, second = (
            [d.action for d in decided(self.BEHAVIOUR, batch_of([asked()] * 50, seq=seq), np.stack([HEAD] * 50))]
            for seq in (1, 51)
        )

        assert first != second

    def test_a_decision_is_drawn_alike_in_any_batch(self) -> None:
        """Its place in the log decides, not its place in the batch."""
        together = decided(self.BEHAVIOUR, batch_of([asked()] * 50), np.stack([HEAD] * 50))

        alone = [decided(self.BEHAVIOUR, batch_of([asked()], seq=seq), HEAD[None, :])[0] for seq in range(1, 51)]

        assert alone == together


class TestFallback:
    """Rows that the policy cannot decide."""

    REST = Constant(action="rest")

    @pytest.mark.parametrize("why", [DeadlineExceeded, InferenceFailed, BreakerOpen])
    def test_a_cause_outside_makes_the_propensity_not_ok(self, why: type[PolicyUnavailable]) -> None:
        """Which path was taken is no function of what was observed."""
        decision = one(behaviour_of(baseline=self.REST), why())

        assert (decision.source, decision.reason) == ("baseline", why.__name__)
        assert (decision.propensity, decision.propensity_ok, decision.why_not_ok) == (1.0, False, why.__name__)
        assert (decision.head, decision.proposed, decision.action) == (None, 4, 4)

    def test_a_cause_in_the_state_leaves_the_propensity_ok(self) -> None:
        """The path is known, and what the baseline does on it is certain."""
        decision = one(behaviour_of(baseline=self.REST), KillSwitch())

        assert (decision.source, decision.reason) == ("baseline", "KillSwitch")
        assert (decision.propensity, decision.propensity_ok, decision.why_not_ok) == (1.0, True, None)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_only_rows_with_numbers_that_are_not_finite_fall_back(self, bad: float) -> None:
        """The others are decided as if they were alone; the bad numbers are on the record."""
        heads = np.stack([HEAD] * 3)
        heads[1, 4] = bad

        decisions = decided(behaviour_of(baseline=self.REST), batch_of([asked()] * 3), heads)

        assert [d.action for d in decisions] == [1, 4, 1]
        assert [d.source for d in decisions] == ["policy", "baseline", "policy"]
        assert [d.reason for d in decisions] == [None, "InvalidOutput", None]
        assert all(d.propensity_ok for d in decisions)
        assert decisions[1].head is not None
        np.testing.assert_array_equal(decisions[1].head.array(), heads[1])

    def test_the_rows_that_are_left_draw_as_if_they_were_alone(self) -> None:
        """What fails beside them changes neither their numbers nor their actions."""
        behaviour = behaviour_of([Rule(name="r", forbid="action == 'jump'")], explorer=EpsilonGreedy(epsilon=0.9))
        rows = [asked(mask=[True] * 5 + [i % 3 > 0], explore=i % 5 > 0) for i in range(60)]
        heads = np.stack([HEAD] * 60)
        whole = decided(behaviour, batch_of(rows), heads)
        heads[::4] = np.nan

        part = decided(behaviour, batch_of(rows), heads)

        assert {d.reason for d in part[::4]} == {"InvalidOutput"}
        assert [d for i, d in enumerate(part) if i % 4] == [d for i, d in enumerate(whole) if i % 4]

    def test_rows_that_are_all_invalid_leave_nothing_to_draw(self) -> None:
        """Every row is the baseline's."""
        decisions = decided(behaviour_of(baseline=self.REST), batch_of([asked()] * 2), np.full((2, 6), np.nan))

        assert [(d.source, d.action, d.reason) for d in decisions] == [("baseline", 4, "InvalidOutput")] * 2

    def test_what_explored_before_the_check_failed_did_not_explore(self) -> None:
        """The record is of what was done instead: the baseline's, with certainty."""
        behaviour = behaviour_of([Fickle(name="f", action=5)], explorer=EpsilonGreedy(epsilon=1.0), baseline=self.REST)

        decisions = decided(behaviour, batch_of([asked()] * 50), np.stack([HEAD] * 50))

        failed = [d for d in decisions if d.reason == "CheckFailed"]
        assert 0 < len(failed) < 50
        assert {(d.source, d.proposed, d.action, d.propensity, d.explored) for d in failed} == {
            ("baseline", 4, 4, 1.0, False)
        }
        assert {(d.propensity_ok, d.why_not_ok) for d in failed} == {(False, "CheckFailed")}
        assert {d.reason for d in decisions if d not in failed} == {None}

    def test_a_failed_check_beside_an_invalid_row_is_put_in_its_place(self) -> None:
        """Each row has its own reason."""
        heads = np.stack([HEAD, HEAD, HEAD[::-1]])
        heads[0] = np.nan

        decisions = decided(
            behaviour_of([Fickle(name="f", action=1)], baseline=self.REST), batch_of([asked()] * 3), heads
        )

        assert [d.reason for d in decisions] == ["InvalidOutput", "CheckFailed", None]

    def test_the_baseline_passes_the_same_shield(self) -> None:
        """Its allowed proposal is executed, and nothing is reported of it."""
        baseline = Rules(rules=(When(when="load > 1", action="up"),), otherwise="drop")
        rows = [asked(observation=(load, 0.0, 3.0)) for load in (0.5, 1.5)]

        decisions = decided(behaviour_of(baseline=baseline), batch_of(rows), KillSwitch())

        assert [(d.action, d.source, d.violations) for d in decisions] == [(5, "baseline", []), (1, "baseline", [])]


class TestLastResort:
    """Rows in which even the baseline is refused."""

    UP = Constant(action="up", last_resort="rest")

    def test_an_allowed_last_resort_is_done(self) -> None:
        """The baseline's proposal was prevented."""
        decision = one(behaviour_of([NO_UP], baseline=self.UP), KillSwitch())

        assert (decision.proposed, decision.action, decision.source) == (1, 4, "last_resort")
        assert (decision.propensity, decision.propensity_ok) == (1.0, True)
        assert decision.violations == [Violation("no up", "prevented")]

    def test_a_forbidden_last_resort_is_done_and_counted(self) -> None:
        """It is an executed violation of every constraint against it."""
        told = Rule(name="told", forbid="action == 'rest'", mode="audit")

        decision = one(behaviour_of([NOTHING, told], baseline=self.UP))

        assert (decision.proposed, decision.action, decision.source) == (1, 4, "last_resort")
        assert (decision.reason, decision.propensity_ok) == ("NoSafeAction", True)
        assert decision.allowed == [False] * 6
        assert decision.violations == [
            Violation("nothing", "prevented"),
            Violation("nothing", "executed"),
            Violation("told", "reported", "audit"),
        ]

    def test_a_last_resort_that_is_the_refused_proposal_is_counted(self) -> None:
        """It was executed against the constraint that refused it."""
        decision = one(behaviour_of([NOTHING], baseline=Constant(action="rest", last_resort="rest")))

        assert (decision.proposed, decision.action, decision.source) == (4, 4, "last_resort")
        assert decision.violations == [Violation("nothing", "executed")]

    def test_a_baseline_without_a_proposal_leaves_it_to_the_last_resort(self) -> None:
        """Nothing was proposed, so nothing was prevented."""
        baseline = Rules(rules=(When(when="budget > 1", action="up"),), otherwise="up", last_resort="rest")

        decision = one(behaviour_of(baseline=baseline), KillSwitch())

        assert (decision.proposed, decision.action, decision.source) == (None, 4, "last_resort")
        assert decision.violations == []

    def test_a_proposal_that_only_the_check_refuses_is_not_done(self) -> None:
        """The baseline has to pass both, as the policy has."""
        (decision,) = decided(
            behaviour_of([Fickle(name="f", action=1)], baseline=self.UP), batch_of([asked()]), KillSwitch()
        )

        assert (decision.proposed, decision.action, decision.source) == (1, 4, "last_resort")


class TestRefused:
    """Rows that no action could be found for."""

    def test_without_a_last_resort_the_row_is_refused(self) -> None:
        """It is on the record with its reason and who prevented what, and the rows beside it are unharmed."""
        rows = [asked(session="a"), asked(session="b", mask=[False, True, True, True, True, True]), asked(session="c")]
        baseline = Constant(action="hold")

        records = recorded(behaviour_of([NO_UP], baseline=baseline), batch_of(rows, seq=5), KillSwitch())

        assert [type(record) for record in records] == [Decision, Refused, Decision]
        assert records[1] == Refused(
            seq=6,
            ms=int(NOW * 1000),
            session="b",
            at=NOW,
            observation=[0.5, 0.0, 3.0],
            reason="KillSwitch",
            violations=[Violation("allowed", "prevented")],
        )

    def test_nothing_is_reported_of_what_was_not_done(self) -> None:
        """A constraint that warns speaks of executed actions."""
        warns: list[Constraint] = [NOTHING, Rule(name="warns", forbid="True", mode="warn")]
        baseline = Rules(rules=(When(when="price > 1", action="up"),), otherwise="up")

        (refused,) = recorded(behaviour_of(warns, baseline=baseline), batch_of([asked()]), HEAD[None, :])

        assert isinstance(refused, Refused)
        assert (refused.reason, refused.violations) == ("NoSafeAction", [])


class TestOtherSpaces:
    """Actions of several choices or of numbers take the same path."""

    MASK = (False, True, True, True, True, True, True, True, True)
    # The best is off, open, still.
    CHOICES = np.array([1, 0, 0, 1, 2, 3, 2, 1, 0], dtype=np.float32)
    NUMBERS = np.array([0.5, 12.0, 0.25, 0.25], dtype=np.float32)

    def test_a_masked_choice_makes_the_whole_action_another(self) -> None:
        """What was proposed is on the record, with its cause."""
        rows = [asked(), asked(mask=list(self.MASK))]

        free, masked = decided(acting_behaviour(SWITCHES), batch_of(rows), np.stack([self.CHOICES] * 2))

        assert (free.proposed, free.action, free.violations) == ((0, 2, 0), (0, 2, 0), [])
        assert (masked.proposed, masked.action) == ((0, 2, 0), (1, 2, 0))
        assert masked.violations == [Violation("allowed", "prevented")]
        assert (free.mask, masked.mask, masked.allowed) == (None, list(self.MASK), list(self.MASK))
        assert (masked.propensity, masked.measure, masked.squash) == (1.0, "mass", "none")

    def test_rows_beside_an_invalid_one_are_drawn_as_if_alone(self) -> None:
        """Choices and numbers, with their measures and what no number can say."""
        narrow = np.array([0.5] * 8 + [1e-44] * 8, dtype=np.float32)
        for behaviour, head in (
            (acting_behaviour(SWITCHES, EpsilonGreedy(epsilon=0.5)), self.CHOICES),
            (acting_behaviour(BOUNDED, Normal()), self.NUMBERS),
            (acting_behaviour(BOUNDED, Normal(), squash="tanh"), self.NUMBERS),
            (acting_behaviour(FREE, Normal()), narrow),
        ):
            heads, rows = np.stack([head] * 20), [asked(explore=i % 5 > 0) for i in range(20)]
            whole = decided(behaviour, batch_of(rows), heads)
            heads[::4] = np.nan

            part = decided(behaviour, batch_of(rows), heads)

            assert {d.reason for d in part[::4]} == {"InvalidOutput"}
            assert {(d.propensity, d.propensity_ok, d.measure) for d in part[::4]} == {(1.0, True, "mass")}
            assert [d for i, d in enumerate(part) if i % 4] == [d for i, d in enumerate(whole) if i % 4]
        assert {d.why_not_ok for d in whole} == {None, "not_representable"}

    @pytest.mark.parametrize("space", [SWITCHES, BOUNDED], ids=["switches", "bounded"])
    def test_the_ladder_is_the_same(self, space: Any) -> None:
        """The baseline, the last resort where it makes no proposal, and nothing where there is none either."""
        first, other = ((1, 1, 1), (0, 0, 0)) if space is SWITCHES else ((1.0, 1.0), (0.0, 0.0))
        rules = (When(when="price > 1", action=first),)
        rows = [asked(facts={"price": 2.0}), asked(facts={"price": 0.5}), asked()]
        batch = batch_of(rows)
        for resort in (other, None):
            baseline = Rules(rules=rules, otherwise=other, last_resort=resort)
            told = recorded(acting_behaviour(space, None, baseline, facts=("price",)), batch, KillSwitch())

            assert [r.action for r in told[:2] if isinstance(r, Decision)] == [first, other]
            last = told[2]
            if isinstance(last, Decision):
                assert (last.source, last.proposed, last.action) == ("last_resort", None, other)
            else:
                assert (resort, last.reason, last.violations) == (None, "KillSwitch", [])

    def test_a_proposal_that_was_drawn_stays_on_the_record(self) -> None:
        """A row whose check failed has the baseline's proposal and the last resort's action, and they differ."""
        behaviour = behaviour_of(
            [Fickle(name="f", action=1)], explorer=Softmax(), baseline=Constant(action="up", last_resort="rest")
        )

        made = decided(behaviour, batch_of([asked()] * 8), np.stack([HEAD * 9] * 8))

        assert {(d.proposed, d.action, d.source) for d in made} == {(1, 4, "last_resort")}

    def test_a_long_action_has_its_own_numbers(self) -> None:
        """More than one hash gives, one for each number."""
        behaviour = acting_behaviour(FREE, Normal())

        (decision,) = decided(behaviour, batch_of([asked()]), np.array([[0.0] * 8 + [1.0] * 8]))

        assert isinstance(decision.action, tuple)
        assert len(set(decision.action)) == 8


class TestWide:
    """Observations and action sets too long for lists."""

    @pytest.mark.parametrize("n", [64, 65, 200])
    def test_long_arrays_are_packed(self, n: int) -> None:
        """Above 64 elements, and they say the same."""
        schema = schema_of([f"f{i}" for i in range(n)], [f"a{i}" for i in range(n)])
        head = np.random.default_rng(0).normal(size=(2, n))
        mask = [i % 2 == 0 for i in range(n)]
        rows = [asked(observation=head[0], mask=mask, explore=True) for _ in range(2)]

        decisions = decided(behaviour_of(schema=schema, explorer=Greedy()), batch_of(rows), head)

        for decision, scores in zip(decisions, head, strict=True):
            assert decision.mask is not None
            assert decision.head is not None
            assert isinstance(decision.observation, Packed) == (n > 64)
            assert isinstance(decision.mask, Packed) == (n > 64)
            assert isinstance(decision.allowed, Packed) == (n > 64)
            assert unlisted(decision.observation, "float64").tolist() == head[0].tolist()
            assert unlisted(decision.mask, "bool").tolist() == unlisted(decision.allowed, "bool").tolist() == mask
            assert decision.head.array().tolist() == scores.tolist()

    @pytest.mark.parametrize("n", [HEAD_LIMIT, HEAD_LIMIT + 1])
    def test_a_head_of_too_many_actions_is_not_logged(self, n: int) -> None:
        """Such a decision cannot be replayed, and shows it."""
        schema = schema_of(["f"], [f"a{i}" for i in range(n)])

        (decision,) = decided(
            behaviour_of(schema=schema), batch_of([asked(observation=(1.0,))]), np.arange(n, dtype=np.float32)[None, :]
        )

        assert decision.action == n - 1
        assert (decision.head is None) == (n > HEAD_LIMIT)


class TestDoubts:
    """Answers that are not trusted, each row alone."""

    SOME = (
        Confidence(name="sure", at_least=0.25),
        Quorum(name="agreed", at_most=0.5),
        Fresh(name="fresh", max_age_seconds=2, mode="warn"),
        Confidence(name="surer", at_least=1.0, mode="audit"),
    )
    CLOSE = np.array([0, 5, 4.75, 3, 1, 0], dtype=np.float32)

    def behaviour(self, **told: Any) -> Behaviour:
        """A plane that doubts answers of an ensemble with values of about 10, and holds where it does."""
        return behaviour_of(self.SOME, manifest=manifest_of(spread=True, scale=2.0), **told)

    def test_a_row_in_doubt_is_the_baselines_alone(self) -> None:
        """With its reason, the first of several; who only warns or audits says so and changes nothing."""
        rows = [asked(observed_at=at) for at in (NOW, NOW, NOW, NOW - 9, None)]
        heads = np.stack([HEAD, self.CLOSE, HEAD, HEAD, HEAD])
        batch = batch_of(rows, spread=[0.1, 9.0, 9.0, 0.1, None])

        decisions = decided(self.behaviour(), batch, heads)

        assert [(d.action, d.source, d.reason) for d in decisions] == [
            (1, "policy", None),
            (0, "baseline", "LowConfidence"),
            (0, "baseline", "Disagreement"),
            (1, "policy", None),
            (0, "baseline", "Disagreement"),
        ]
        sure, agreed = Violation("sure", "prevented"), Violation("agreed", "prevented")
        fresh, surer = Violation("fresh", "reported", "warn"), Violation("surer", "reported", "audit")
        assert [d.violations for d in decisions] == [
            [surer],
            [sure, agreed, surer],
            [agreed, surer],
            [fresh, surer],
            [agreed, fresh, surer],
        ]
        assert all(d.propensity_ok for d in decisions)

    def test_what_a_clock_doubts_is_not_identified(self) -> None:
        """How long a request took is no function of what it says."""
        behaviour = behaviour_of([Fresh(name="fresh", max_age_seconds=2)], manifest=manifest_of())

        decision = one(behaviour, observed_at=NOW - 1.9995)

        assert (decision.reason, decision.propensity_ok, decision.why_not_ok) == (
            "StaleObservation",
            False,
            "StaleObservation",
        )

    def test_the_time_it_took_to_decide_counts(self) -> None:
        """An observation goes on growing old while its request waits and the network runs."""
        behaviour = behaviour_of([Fresh(name="fresh", max_age_seconds=2)], manifest=manifest_of())
        rows = [asked(observed_at=NOW - 1.0, read=read) for read in (10.0, 9.1, 8.9)]

        decisions = decided(behaviour, batch_of(rows, began=10.0, infer_us=50_000), np.stack([HEAD] * 3))

        assert [d.reason for d in decisions] == [None, None, "StaleObservation"]

    def test_other_reasons_come_first(self) -> None:
        """Of an answer that is none there is nothing to doubt, nor where nothing may be chosen."""
        nan, none = np.full(6, np.nan), [False] * 6
        batch = batch_of([asked(), asked(mask=none)], spread=[9.0, 9.0])

        records = recorded(
            self.behaviour(baseline=Constant(action="hold", last_resort="hold")), batch, np.stack([nan, HEAD])
        )

        assert [(r.reason, [v.constraint for v in r.violations]) for r in records if isinstance(r, Decision)] == [
            ("InvalidOutput", []),
            ("NoSafeAction", ["allowed"]),
        ]

    def test_without_an_answer_nothing_is_doubted(self) -> None:
        """The baseline answers already."""
        decision = one(self.behaviour(), InferenceFailed())

        assert (decision.reason, decision.violations) == ("InferenceFailed", [])

    def test_the_baseline_passes_the_same_guard(self) -> None:
        """What it proposes for a row in doubt may be forbidden too, and all of it is said."""
        rule = Rule(name="no hold", forbid="action == 'hold'")
        sure, baseline = Confidence(name="sure", at_least=1.0), Constant(action="hold", last_resort="drop")
        behaviour = behaviour_of([sure, rule], baseline=baseline, manifest=manifest_of())

        decision = one(behaviour, self.CLOSE)

        assert (decision.action, decision.source, decision.reason) == (5, "last_resort", "LowConfidence")
        assert decision.violations == [Violation("sure", "prevented"), Violation("no hold", "prevented")]


class TestWeights:
    """What executed actions count for, for the constraints that keep count."""

    def test_rows_that_were_refused_count_for_nothing(self) -> None:
        """In a batch of which some rows are refused, each of the others counts by its own observation."""
        dear = Budget(name="dear", cost="load * 10", at_most=100, seconds=60)
        nothing = Rule(name="nothing", forbid="load > 0.5 and load < 0.6")
        behaviour = behaviour_of([dear, nothing])
        batch = batch_of([asked(observation=[load, 0.0, 3.0]) for load in (0.1, 0.55, 0.3)])

        records = recorded(behaviour, batch, np.stack([HEAD] * 3))
        weights = weighed(behaviour, batch)

        assert [type(record) for record in records] == [Decision, Refused, Decision]
        assert {row: pytest.approx(told) for row, told in weights.items()} == {0: [1.0], 2: [3.0]}

    def test_a_batch_without_decisions_counts_for_nothing(self) -> None:
        """Where nothing was executed, nothing is counted."""
        behaviour = behaviour_of([Budget(name="dear", cost="1", at_most=100, seconds=60), NOTHING])
        batch = batch_of([asked()])

        recorded(behaviour, batch, HEAD[None])

        assert weighed(behaviour, batch) == {}
