"""The breaker: when it opens, how it rests and probes, and what holds whatever happens."""

import math
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError

from guards.breaker import BUCKETS, Breaker, BreakerState, Event, event_of
from guards.errors import (
    CheckFailed,
    DeadlineExceeded,
    InferenceFailed,
    InvalidOutput,
    KillSwitch,
    NoSafeAction,
    PolicyUnavailable,
)

BREAKER = Breaker(
    consecutive=3,
    rate=0.5,
    minimum=6,
    window_seconds=10,
    rest_seconds=1,
    longest_rest_seconds=8,
    growth=2,
    jitter=0.5,
    good_probes=2,
    healthy_seconds=60,
)
GOOD = Event(good=4)
BAD = Event(faults={"InvalidOutput": 4})
TICK = Event()
SENT = Event("probe_sent")
GOOD_PROBE = Event("probed", good=1)
BAD_PROBE = Event("probed", faults={"DeadlineExceeded": 1})
NEITHER = Event("probed")


def after(*events: tuple[float, Event], state: BreakerState | None = None, uniform: float = 0.0) -> BreakerState:
    """The state after events, each with its time."""
    state = state or BREAKER.start(0.0)
    for now, event in events:
        state = BREAKER.step(state, event, now, uniform)
    return state


def opened(now: float = 0.0, uniform: float = 0.0) -> BreakerState:
    """A breaker that has just opened for the first time."""
    return after((now, BAD), (now, BAD), (now, BAD), state=BREAKER.start(now), uniform=uniform)


def probing(now: float = 1.0) -> BreakerState:
    """A breaker whose first rest of a second is over."""
    return after((now, TICK), state=opened(now - 1))


class TestEvents:
    """What came of a flight, in counts."""

    def test_hard_faults_are_counted_by_reason(self) -> None:
        """Beside what the policy decided."""
        why: dict[int, PolicyUnavailable] = {1: InvalidOutput(), 3: CheckFailed(), 4: InvalidOutput()}

        assert event_of("answered", 8, why) == Event(good=5, faults={"InvalidOutput": 2, "CheckFailed": 1})

    def test_reasons_are_told_in_order(self) -> None:
        """By name: two replicas that saw the same say the same."""
        failed: list[PolicyUnavailable] = [InvalidOutput(), InferenceFailed(), DeadlineExceeded(), CheckFailed()]

        assert list(event_of("answered", 4, dict(enumerate(failed))).faults) == [
            "CheckFailed",
            "DeadlineExceeded",
            "InferenceFailed",
            "InvalidOutput",
        ]

    @pytest.mark.parametrize("failed", PolicyUnavailable.__subclasses__())
    def test_only_the_versions_own_faults_are_hard(self, failed: type[PolicyUnavailable]) -> None:
        """Whatever other reasons there are, or will be."""
        hard = {InferenceFailed, DeadlineExceeded, InvalidOutput, CheckFailed}

        assert event_of("answered", 1, {0: failed()}).faults == ({failed.__name__: 1} if failed in hard else {})

    def test_what_is_not_the_versions_doing_speaks_neither_for_nor_against_it(self) -> None:
        """Constraints, operators, and the host where it is told apart."""
        why: dict[int, PolicyUnavailable] = {0: NoSafeAction(), 1: KillSwitch(), 2: DeadlineExceeded()}

        assert event_of("probed", 3, why, host={2}) == Event("probed")
        assert event_of("probed", 3, why) == Event("probed", faults={"DeadlineExceeded": 1})

    @pytest.mark.parametrize(
        ("event", "share"), [(TICK, None), (GOOD, 0), (BAD, 1), (Event(good=3, faults={"a": 1}), 0.25)]
    )
    def test_its_share_of_faults(self, event: Event, share: float | None) -> None:
        """None where nothing is to be counted."""
        assert event.share == share


class TestOpening:
    """What it takes to open."""

    def test_flights_of_faults_alone_open_it(self) -> None:
        """The third in a row, and the record says why."""
        before = after((0, BAD), (1, BAD))
        state = after((2, Event(faults={"InvalidOutput": 1, "InferenceFailed": 3})), state=before)

        assert before.phase == "closed"
        assert state == BreakerState(
            at=2, since=2, next_rest_s=2, phase="resting", opened_by="consecutive", fault="InferenceFailed", rest_s=1
        )

    def test_the_first_of_equally_common_faults_is_named(self) -> None:
        """By name, whatever the order they are told in."""
        mixed = Event(faults={"InvalidOutput": 1, "CheckFailed": 1})

        assert after((0, mixed), (0, mixed), (0, mixed)).fault == "CheckFailed"

    def test_a_good_answer_breaks_the_row(self) -> None:
        """Also in the same flight."""
        some = Event(good=1, faults={"InvalidOutput": 9})

        assert after((0, BAD), (0, BAD), (0, GOOD), (0, BAD), (0, BAD)).phase == "closed"
        assert after((0, BAD), (0, BAD), (0, some), (0, BAD), (0, BAD)).in_a_row == 2

    def test_what_says_nothing_neither_breaks_nor_lengthens_the_row(self) -> None:
        """Nor do probes that come back late."""
        state = after((0, BAD), (0, BAD), (0, TICK), (0, GOOD_PROBE), (0, BAD_PROBE), (0, SENT))

        assert state.in_a_row == 2
        assert after((0, BAD), state=state).phase == "resting"

    def test_a_rate_opens_it(self) -> None:
        """Over enough flights, each by its share: here 3 of 6."""
        half = Event(good=1, faults={"InvalidOutput": 1})

        assert after(*[(0, half)] * 5).phase == "closed"
        state = after(*[(0, half)] * 6)
        assert (state.phase, state.opened_by, state.fault) == ("resting", "rate", "InvalidOutput")

    def test_a_rate_below_its_limit_does_not(self) -> None:
        """However many flights there are."""
        some = Event(good=52, faults={"InvalidOutput": 48})

        assert after(*[(i / 100, some) for i in range(500)]).phase == "closed"

    def test_a_good_flight_never_opens_it(self) -> None:
        """Though it is the one that makes the flights enough."""
        assert after(*[(0, BAD), (0, BAD), (0, GOOD)] * 2, (0, BAD)).phase == "resting"
        assert after(*[(0, BAD), (0, GOOD)] * 2, (0, BAD), (0, GOOD)).phase == "closed"

    def test_flights_alike_may_be_told_as_one(self) -> None:
        """Several at a time are what they are one by one."""
        good, bad = Event(good=2), Event(good=1, faults={"InferenceFailed": 1})
        for event in (good, bad, BAD):
            one_by_one = after((0.5, event), (0.5, event))

            assert after((0.5, replace(event, flights=2))) == one_by_one

    def test_faults_leave_the_window(self) -> None:
        """Ten seconds later they count no more; a little less than nine, they do."""
        old = [(0.0, GOOD), (0.0, BAD)] * 2

        assert after(*old, (8.9, GOOD), (8.9, BAD)).opened_by == "rate"
        assert after(*old, (10.1, GOOD), (10.1, BAD), (10.1, BAD)).phase == "closed"

    def test_the_window_is_counted_in_tenths(self) -> None:
        """So a fault is forgotten up to a tenth of the window early."""
        old = [(0.99, GOOD), (0.99, BAD)] * 2

        assert after(*old, (9.99, GOOD), (9.99, BAD)).opened_by == "rate"
        assert after(*old, (10.0, GOOD), (10.0, BAD), (10.0, BAD)).phase == "closed"

    def test_it_starts_closed(self) -> None:
        """With nothing told of rests or faults, at the beginning of a window."""
        state = Breaker(rest_seconds=2).start(5.0)

        assert (state.phase, state.at, state.since, state.rest_s, state.next_rest_s) == ("closed", 5, 5, 0, 2)
        assert (state.opened_by, state.fault, state.bucket_s, state.probe_due) == (None, None, 0, False)


class TestResting:
    """What happens while it is open."""

    def test_it_probes_after_the_rest(self) -> None:
        """Not before, and not until a step says that time has passed."""
        assert after((0.9, TICK), state=opened()).phase == "resting"
        state = after((0.6, TICK), (1.0, TICK), state=opened())
        assert (state.phase, state.since, state.counted_s, state.probe_due) == ("probing", 1.0, 0.0, True)

    def test_nothing_counts_in_the_meantime(self) -> None:
        """Flights that departed earlier, and probes of an earlier time."""
        state = after((0.1, GOOD), (0.2, BAD), (0.3, GOOD_PROBE), (0.4, BAD_PROBE), (0.5, SENT), state=opened())

        assert state == replace(opened(), at=0.5, counted_s=0.5)

    @pytest.mark.parametrize(("uniform", "rest_s"), [(0.0, 1.0), (0.5, 0.75), (0.999, 0.5005)])
    def test_jitter_shortens_the_rest(self, uniform: float, rest_s: float) -> None:
        """By up to its share: so the longest rest is never passed."""
        assert opened(uniform=uniform).rest_s == pytest.approx(rest_s)


class TestProbing:
    """How it closes again."""

    def test_one_probe_is_out_at_a_time(self) -> None:
        """The next is due when the outcome is there."""
        state = probing()
        out = after((1.1, SENT), state=state)

        assert (state.probe_due, out.probe_due) == (True, False)
        assert after((1.2, GOOD_PROBE), state=out).probe_due

    def test_good_probes_in_a_row_close_it(self) -> None:
        """With nothing held against it, but with the longer rest in mind."""
        one = after((1.1, SENT), (1.2, GOOD_PROBE), state=probing())
        state = after((1.3, SENT), (1.4, GOOD_PROBE), state=one)

        assert (one.phase, one.good_probes) == ("probing", 1)
        assert state == replace(
            BREAKER.start(1.4), next_rest_s=2, opened_by="consecutive", fault="InvalidOutput", rest_s=1, good_probes=2
        )

    def test_a_bad_probe_opens_it_for_longer(self) -> None:
        """Good ones before it count no more; the record names the probe's fault."""
        state = after((1.1, GOOD_PROBE), (1.2, BAD_PROBE), state=probing())

        assert state == BreakerState(
            at=1.2, since=1.2, next_rest_s=4, phase="resting", opened_by="probe", fault="DeadlineExceeded", rest_s=2
        )

    def test_a_probe_that_says_nothing_is_sent_again(self) -> None:
        """It neither counts nor hurts."""
        state = after((1.1, SENT), (1.2, GOOD_PROBE), (1.3, SENT), (1.4, NEITHER), state=probing())

        assert (state.phase, state.good_probes, state.probe_due) == ("probing", 1, True)

    def test_a_probe_that_does_not_come_back_is_sent_again(self) -> None:
        """After the longest rest; callers' late flights change nothing about it."""
        out = after((2.0, SENT), state=probing())

        assert not after((9.9, BAD), state=out).probe_due
        assert after((10.0, TICK), state=out).probe_due

    def test_a_probe_that_has_not_left_stays_due(self) -> None:
        """Whatever callers' late flights tell in the meantime."""
        assert after((1.1, TICK), (1.2, GOOD), (1.3, BAD), state=probing()).probe_due

    def test_a_flapping_version_ends_up_with_long_rests(self) -> None:
        """Each time it comes back and fails again the rest doubles, up to the longest."""
        state, now, rests = BREAKER.start(0.0), 0.0, []
        for _ in range(6):
            state = after(*[(now, BAD)] * 3, state=state)
            rests.append(state.rest_s)
            now += state.rest_s
            state = after((now, TICK), (now, GOOD_PROBE), (now, GOOD_PROBE), state=state)

        assert rests == [1, 2, 4, 8, 8, 8]

    def test_a_long_healthy_time_shortens_the_next_rest(self) -> None:
        """Step by step, and never below the first; idle time and flights with faults are not healthy."""
        some = Event(good=3, faults={"InvalidOutput": 1})
        state = replace(BREAKER.start(0.0), next_rest_s=8)
        idle = after(*[(now, some) for now in range(1, 60)], (1000, GOOD), state=state)
        state = after(*[(now, GOOD) for now in range(1, 60)], state=state)

        assert (idle.next_rest_s, idle.counted_s) == (8, 10)
        rests = []
        for now in range(60, 300):
            state = after((now, GOOD), state=state)
            rests.append(state.next_rest_s)
        assert (rests[0], rests[59], rests[60], rests[120], rests[-1]) == (4, 4, 2, 1, 1)


class TestClocks:
    """A clock that goes wrong does no harm."""

    def test_a_clock_that_runs_back_stands_still(self) -> None:
        """The rest is not over early, and not late by what the clock was put back."""
        state = after((100.5, TICK), (0.0, TICK), (0.4, TICK), state=opened(100.0))

        assert state.phase == "resting"
        assert after((0.5, TICK), state=state).phase == "probing"

    def test_a_leap_is_no_long_health(self) -> None:
        """It counts as the longest rest or window; so what is old is forgotten, and trust not earned."""
        state = replace(BREAKER.start(0.0), next_rest_s=8)

        state = after((0, BAD), (1e9, GOOD), state=state)

        assert state.next_rest_s == 8
        assert sum(flights for flights, _ in state.window) == 1

    @pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
    def test_a_time_that_is_no_number_is_overcome(self, odd: float) -> None:
        """As soon as the clock is one again."""
        state = after((odd, TICK), (odd, TICK), (5.0, TICK), (6.0, TICK), state=opened())

        assert state.phase == "probing"
        assert after((odd, GOOD), (odd, GOOD), (5.0, BAD), (5.0, BAD), (5.0, BAD)).phase == "resting"


class TestSettings:
    """What may be written."""

    def test_rests_are_ordered(self) -> None:
        """The first is not longer than the longest."""
        with pytest.raises(ValidationError, match=r"rest_seconds is 31.0, expected at most 30.0, the longest"):
            Breaker(rest_seconds=31)
        assert Breaker(rest_seconds=30).longest_rest_seconds == 30

    @pytest.mark.parametrize(
        "told",
        [
            {"consecutive": 0},
            {"rate": 0},
            {"rate": 1.1},
            {"minimum": 0},
            {"window_seconds": 0},
            {"growth": 0.9},
            {"growth": 101},
            {"window_seconds": 86401},
            {"jitter": 1},
            {"good_probes": 0},
            {"healthy_seconds": 0},
            {"rest": 1},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, told: dict[str, float]) -> None:
        """By its setting."""
        with pytest.raises(ValidationError):
            Breaker.model_validate(told)

    def test_what_is_just_possible_is_accepted(self) -> None:
        """One of each, rests that do not grow or grow a hundredfold, and a whole day."""
        one = Breaker(consecutive=1, rate=1, minimum=1, good_probes=1, growth=1, jitter=0, window_seconds=86400)

        assert one.step(one.start(0.0), BAD, 0.0, 0.0).phase == "resting"
        assert Breaker(growth=100).growth == 100

    def test_the_defaults_are_those_of_the_documents(self) -> None:
        """Five in a row, or half of twenty within ten seconds; one second to thirty; three good probes."""
        assert Breaker().model_dump() == {
            "consecutive": 5,
            "rate": 0.5,
            "minimum": 20,
            "window_seconds": 10,
            "rest_seconds": 1,
            "longest_rest_seconds": 30,
            "growth": 2,
            "jitter": 0.5,
            "good_probes": 3,
            "healthy_seconds": 300,
        }


EVENTS = st.one_of(
    st.sampled_from((GOOD, BAD, BAD, TICK, SENT, GOOD_PROBE, GOOD_PROBE, BAD_PROBE, NEITHER)),
    st.builds(
        lambda good, bad: Event(good=good, faults={"InvalidOutput": bad} if bad else {}),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
)


class BreakerMachine(RuleBasedStateMachine):
    """Any events at any times: beside the breaker a plain account of everything that happened to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.real = 0.0
        self.state = BREAKER.start(self.now)
        self.told: list[tuple[float, float]] = []  # when, by a clock that never goes wrong, and the share of faults
        self.row = 0
        self.good_probes = 0
        self.open_for = 0.0
        self.last_nominal = BREAKER.rest_seconds

    @rule(event=EVENTS, seconds=st.sampled_from((0.0, 0.001, 0.1, 0.3, 1.0, 3.0, 20.0)), uniform=st.floats(0, 0.999))
    def happens(self, event: Event, seconds: float, uniform: float) -> None:
        """An event after some time."""
        self.now += seconds
        self._step(event, min(seconds, 10.0), uniform)

    @rule(event=EVENTS, jump=st.sampled_from((-1e9, -60.0, -0.5, 1e9)), uniform=st.floats(0, 0.999))
    def clock_jumps(self, event: Event, jump: float, uniform: float) -> None:
        """The clock is put back, or forward beyond anything there is to wait for."""
        self.now += jump
        self._step(event, 10.0 if jump > 0 else 0.0, uniform)

    @precondition(lambda self: self.state.phase != "closed")
    @rule(good=st.booleans())
    def rest_and_probe(self, good: bool) -> None:
        """What the service does while it is open."""
        self.now += 8.0
        self._step(TICK, 8.0, 0.5)
        self._step(SENT, 0.0, 0.5)
        self._step(GOOD_PROBE if good else BAD_PROBE, 0.0, 0.5)

    def _step(self, event: Event, passed: float, uniform: float) -> None:
        before = self.state
        self.state = BREAKER.step(before, event, self.now, uniform)
        again = BREAKER.step(before, event, self.now, uniform)
        self.real += passed

        assert again == self.state, "equal inputs give equal states"
        assert hash(again) == hash(self.state)
        if before.phase == "closed":
            self._closed(event)
        else:
            self.open_for += passed
            self._open(before, event)
        if self.state.phase == "resting" and (before.phase, before.since) != (self.state.phase, self.state.since):
            self._rests(before, uniform)

    def _closed(self, event: Event) -> None:
        """It opens where, and only where, a threshold is reached."""
        if event.kind == "answered" and event.share is not None:
            self.told.append((self.real, event.share))
            self.row = self.row + 1 if event.share == 1 else 0
        if self.state.phase == "closed":
            assert self.row < BREAKER.consecutive, "it opens at the threshold"
            return
        assert self.state.phase == "resting"
        if self.state.opened_by == "consecutive":
            assert self.row >= BREAKER.consecutive
        else:
            assert self.state.opened_by == "rate"
            recent = [share for at, share in self.told if at >= self.real - BREAKER.window_seconds - 1e-9]
            latest = [recent[-n:] for n in range(BREAKER.minimum, len(recent) + 1)]
            assert any(sum(some) >= BREAKER.rate * len(some) - 1e-9 for some in latest)

    def _open(self, before: BreakerState, event: Event) -> None:
        """It closes after enough good probes, one after another, and only while it probes."""
        if before.phase == "resting":
            assert self.state.phase in ("resting", "probing")
            if self.state.phase == "probing":
                assert self.open_for >= before.rest_s - 1e-9, "no probe before the rest is over"
                self.good_probes = 0
            return
        if event.kind == "probed":
            self.good_probes = 0 if event.faults else self.good_probes + (event.good > 0)
        if event.kind == "probed" and event.faults:
            assert self.state.phase == "resting"
            assert self.state.opened_by == "probe"
        elif self.good_probes >= BREAKER.good_probes:
            assert self.state.phase == "closed"
            self.told.clear()
            self.row = 0
        else:
            assert self.state.phase == "probing"

    def _rests(self, before: BreakerState, uniform: float) -> None:
        """A rest is within its bounds, and the next one no shorter."""
        self.open_for = 0.0
        assert self.state.rest_s == before.next_rest_s * (1 - BREAKER.jitter * uniform)
        assert self.state.next_rest_s >= before.next_rest_s
        assert self.state.fault is not None

    @invariant()
    def it_is_bounded(self) -> None:
        """Neither memory nor rests grow."""
        state = self.state

        assert len(state.window) == BUCKETS
        assert 0 <= state.bucket_s < BREAKER.window_seconds / BUCKETS + 1e-9
        assert BREAKER.rest_seconds <= state.next_rest_s <= BREAKER.longest_rest_seconds
        assert 0 <= state.rest_s <= BREAKER.longest_rest_seconds
        assert 0 <= state.good_probes <= BREAKER.good_probes
        assert state.in_a_row < BREAKER.consecutive
        assert not state.probe_due or state.phase == "probing"


TestAnything = BreakerMachine.TestCase
TestAnything.settings = settings(max_examples=200, stateful_step_count=40, deadline=None, derandomize=True)
