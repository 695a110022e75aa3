"""The ledger of budgets: what is admitted, what is charged, and that the provider's bill never passes the limit."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from model.interleavings import KINDS, LIMIT, Averaging, Freeing, Repeating, walk
from tallystick.model.budgets import Budget
from tallystick.model.ledger import (
    OPEN,
    Demand,
    Event,
    Ledger,
    Refusal,
    Standing,
    as_json,
    budget_of,
    microseconds,
)

NOON = microseconds(datetime(2026, 11, 21, 12, tzinfo=UTC))
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR


def usd(limit: str | int = 10, name: str = "b", **values: Any) -> Budget:
    return Budget(**{"name": name, "limit_usd": Decimal(limit), "action": "block", **values})


def ledger(*budgets: Budget, at: int = NOON - HOUR) -> Ledger:
    made = Ledger()
    for budget in budgets:
        define(made, budget, at)
    return made


def define(made: Ledger, budget: Budget, at: int = NOON) -> None:
    made.apply({"event": "define", "at": at, "budget": json.loads(json.dumps(as_json(budget))), "source": "file"})


def ask(made: Ledger, name: str, amount: str | int | None = 1, at: int = NOON, **values: Any) -> list[str] | Refusal:
    """Ask and, when it is admitted, hold; return the budgets that hold it, or the refusal."""
    demand = Demand(**{
        "id": name, "dimensions": {}, "usd": None if amount is None else Decimal(amount), "tokens": 100, **values,
    })  # fmt: skip
    outcome = made.admit(demand, at)
    if isinstance(outcome, Refusal):
        return outcome
    made.apply(json.loads(json.dumps(outcome)))
    return [place[0] for place in outcome["places"]]


def settle(made: Ledger, name: str, amount: str | int | None, **values: Any) -> None:
    told = {"id": name, "usd": None if amount is None else str(amount), "tokens": 10, "calls": 1, **values}
    made.apply({"event": "settled", "settlements": [told]})


def expire(made: Ledger, *names: str) -> None:
    made.apply({"event": "expired", "ids": list(names)})


def span(made: Ledger, name: str, amount: str | int | None, **values: Any) -> None:
    """Tell of a stored call."""
    call = {"id": name, "usd": None if amount is None else str(amount), "tokens": 10, "calls": 1, "certain": True,
            "at": NOON, "dimensions": {}, **values}  # fmt: skip
    made.apply({"event": "observed", "calls": [call]})


def stand(made: Ledger, name: str = "b", group: tuple[str, ...] = (), at: int = NOON) -> tuple[Decimal, Decimal]:
    found = made.standing(name, group, at)
    return found.spent, found.reserved


# Admitting


def test_a_call_that_fits_exactly_is_admitted_and_the_next_is_not() -> None:
    made = ledger(usd(10))

    assert ask(made, "a", 4) == ["b"]
    assert ask(made, "c", 6) == ["b"]
    refusal = ask(made, "d", "0.000000000001")

    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.needed, refusal.standing.room) == ("limit", Decimal("1E-12"), 0)
    assert (refusal.standing.spent, refusal.standing.reserved) == (0, 10)
    assert refusal.resets_at == datetime(2026, 11, 22, tzinfo=UTC)
    assert refusal.may_fit_sooner


def test_a_call_holds_in_every_budget_that_covers_it_or_in_none() -> None:
    chat = usd(3, "chat", scope={"feature": "chat"})
    team, other = usd(10, "team"), usd(1, "other", scope={"feature": "search"})
    made = ledger(team, chat, other)
    chatting = {"dimensions": {"feature": "chat"}}

    assert ask(made, "a", 2, **chatting) == ["team", "chat"]
    refusal = ask(made, "c", 2, **chatting)

    assert isinstance(refusal, Refusal)
    assert refusal.standing.budget == chat
    assert (stand(made, "team"), stand(made, "chat"), stand(made, "other")) == ((0, 2), (0, 2), (0, 0))


def test_a_budget_that_only_tells_refuses_nothing_and_holds_nothing() -> None:
    made = ledger(usd(1, action="alert"))

    assert ask(made, "a", 100) == []


def test_each_value_of_group_by_has_the_limit_for_itself() -> None:
    made = ledger(usd(3, group_by=("user", "tag.tenant")))

    assert ask(made, "a", 3, dimensions={"user": "u1", "tag.tenant": "t"}) == ["b"]
    assert ask(made, "c", 3, dimensions={"user": "u2", "tag.tenant": "t"}) == ["b"]
    assert isinstance(ask(made, "d", 1, dimensions={"user": "u1", "tag.tenant": "t"}), Refusal)
    assert ask(made, "e", 3) == ["b"], "calls without a user are a group too"
    assert sorted(made.groups("b")) == [("", ""), ("u1", "t"), ("u2", "t")]


@pytest.mark.parametrize(
    ("unit", "values"), [("tokens", {"tokens": 60}), ("calls", {"calls": 1})], ids=["tokens", "calls"]
)
def test_tokens_and_calls_are_limited_too(unit: str, values: dict[str, int]) -> None:
    made = ledger(Budget(name="b", **{f"limit_{unit}": 100 if unit == "tokens" else 1}, action="block"))  # type: ignore[arg-type]

    assert ask(made, "a", None, **values) == ["b"]
    assert isinstance(ask(made, "c", None, **values), Refusal)


@pytest.mark.parametrize(
    ("policies", "why", "reason"),
    [
        ({}, None, "unpriced"),
        ({}, "no max_tokens", "unbounded"),
        ({"on_unbounded": "cap"}, "no max_tokens", "unbounded"),
        ({"on_unpriced": "alert"}, None, None),
        ({"on_unbounded": "alert"}, "no max_tokens", None),
        ({"on_unpriced": "alert"}, "no max_tokens", "unbounded"),
    ],
)
def test_a_call_without_a_bound_is_a_matter_of_policy(
    policies: dict[str, str], why: str | None, reason: str | None
) -> None:
    made = ledger(usd(**policies))
    outcome = ask(made, "a", None, why_unbounded=why)

    if reason is None:
        assert outcome == ["b"]
        settle(made, "a", 7)
        assert stand(made) == (7, 0)
    else:
        assert isinstance(outcome, Refusal)
        assert (outcome.reason, outcome.needed, outcome.may_fit_sooner) == (reason, None, False)


def test_at_the_limit_calls_go_to_the_cheaper_model_which_is_let_through_and_counted() -> None:
    made = ledger(usd(3, action="downgrade:mini"), usd(8, "hard"))
    assert ask(made, "a", 3, dimensions={"model": "big"}) == ["b", "hard"]

    refusal = ask(made, "c", 3, dimensions={"model": "big"})
    assert isinstance(refusal, Refusal)
    assert refusal.standing.budget.downgrade_to == "mini"
    assert ask(made, "c", 1, dimensions={"model": "mini"}) == ["b", "hard"]
    assert stand(made) == (0, 4)

    blocked = ask(made, "d", 5, dimensions={"model": "mini"})
    assert isinstance(blocked, Refusal)
    assert blocked.standing.budget.name == "hard"


def test_asking_again_with_the_same_id_holds_nothing_twice() -> None:
    made = ledger(usd())
    ask(made, "a", 4)
    event = made.admit(Demand(id="a", dimensions={}, usd=Decimal(4), tokens=1), NOON)
    assert isinstance(event, dict)
    made.apply(event)

    assert stand(made) == (0, 4)


# Settling


def test_a_settlement_replaces_what_was_held_and_counts_once() -> None:
    made = ledger(usd())
    ask(made, "a", 4)

    settle(made, "a", "1.5")
    settle(made, "a", "1.5")
    settle(made, "a", 0)

    assert stand(made) == (Decimal("1.5"), 0)


def test_an_unknown_cost_settles_at_the_worst_case_until_the_real_cost_arrives() -> None:
    made = ledger(usd())
    ask(made, "a", 4)

    settle(made, "a", None, status="unknown")
    assert stand(made) == (4, 0)
    span(made, "a", "0.5")
    assert stand(made) == (Decimal("0.5"), 0)


def test_an_expired_lease_is_charged_at_the_worst_case_until_the_real_cost_arrives() -> None:
    made = ledger(usd(5))
    ask(made, "a", 4)

    expire(made, "a")
    assert stand(made) == (4, 0)
    assert isinstance(ask(made, "c", 2), Refusal)
    span(made, "a", 1)
    assert stand(made) == (1, 0)
    assert ask(made, "c", 2) == ["b"]


def test_a_settlement_after_expiry_replaces_the_worst_case() -> None:
    made = ledger(usd())
    ask(made, "a", 4)
    expire(made, "a")
    settle(made, "a", 1)

    assert stand(made) == (1, 0)


def test_a_lease_that_is_renewed_after_it_ran_out_is_held_again() -> None:
    made = ledger(usd())
    ask(made, "a", 4)
    expire(made, "a")
    made.apply({"event": "renewed", "ids": ["a", "nobody"]})

    assert stand(made) == (0, 4)


@pytest.mark.parametrize("settled", [None, 3, 0], ids=["before-the-settlement", "after-it", "after-a-settlement-of-0"])
def test_a_span_that_is_not_the_whole_story_never_lowers_what_is_charged(settled: int | None) -> None:
    made = ledger(usd())
    ask(made, "a", 4)
    if settled is not None:
        settle(made, "a", settled)
    span(made, "a", 2, certain=False)

    assert sum(stand(made)) == (4 if settled is None else max(settled, 2))


def test_a_span_may_come_before_its_settlement() -> None:
    made = ledger(usd())
    ask(made, "a", 4)
    span(made, "a", 1)
    settle(made, "a", 3)

    assert stand(made) == (1, 0)


def test_spans_are_told_again_after_a_rebuild_and_count_once() -> None:
    made = ledger(usd())
    ask(made, "a", 4)
    settle(made, "a", 1)
    for _ in range(2):
        span(made, "a", 2)
        span(made, "lost", 3)

    assert stand(made) == (5, 0)


def test_a_call_whose_asking_never_arrived_is_charged_when_its_span_comes() -> None:
    made = ledger(usd(), usd(5, "chat", scope={"feature": "chat"}))
    span(made, "lost", 2, dimensions={"feature": "chat"})

    assert (stand(made), stand(made, "chat")) == ((2, 0), (2, 0))


def test_what_was_settled_long_ago_is_forgotten_and_its_late_span_is_not_a_new_call() -> None:
    made = ledger(usd())
    ask(made, "a", 4)
    settle(made, "a", 1)
    made.forget(NOON + HOUR, settled_max=100)

    assert "a" not in made.reservations
    span(made, "a", 2, at=NOON - SECOND)
    assert stand(made) == (1, 0)


def test_only_so_many_settled_ones_are_kept_the_newest() -> None:
    made = ledger(usd(100))
    for number in range(5):
        ask(made, str(number), 1, at=NOON + number)
        settle(made, str(number), 1)
        if number < 2:
            span(made, str(number), 1)
    ask(made, "open", 1, at=NOON + 9)
    made.forget(0, settled_max=2)

    assert (list(made.reservations), made.done) == (["3", "4", "open"], {})


def test_a_slice_is_settled_in_sums_and_gives_its_rest_back() -> None:
    made = ledger(usd())
    ask(made, "a", 6, is_slice=True)

    settle(made, "a", 2, final=False)
    assert stand(made) == (2, 4)
    settle(made, "a", 1, final=False)
    assert stand(made) == (2, 4), "an older message that was overtaken lowers nothing"
    span(made, "a", "0.1")
    assert stand(made) == (2, 4), "its calls are in the sums already"
    settle(made, "a", 3)
    assert stand(made) == (3, 0)


def test_a_slice_whose_holder_died_is_charged_whole() -> None:
    made = ledger(usd())
    ask(made, "a", 6, is_slice=True)
    settle(made, "a", 2, final=False)
    expire(made, "a")

    assert stand(made) == (6, 0)


def test_a_holding_that_could_not_be_written_down_is_undone() -> None:
    made = ledger(usd())
    ask(made, "a", 6)
    made.apply({"event": "undone", "id": "a"})

    assert stand(made) == (0, 0)


# Windows and clocks


def test_a_call_belongs_to_the_window_that_admitted_it() -> None:
    made = ledger(usd())
    before, after = NOON + 12 * HOUR - 1, NOON + 12 * HOUR
    ask(made, "a", 4, at=before)
    ask(made, "c", 5, at=after)
    settle(made, "a", 3)

    assert (stand(made, at=before), stand(made, at=after)) == ((0, 5), (0, 5)), "the first window is over for good"
    settle(made, "c", 5)
    assert stand(made, at=after) == (5, 0)


@pytest.mark.parametrize("back", [HOUR, DAY, 26 * HOUR], ids=["1h", "1d", "26h"])
def test_a_clock_that_is_set_back_opens_no_window_again(back: int) -> None:
    made = ledger(usd())
    ask(made, "a", 10, at=NOON)
    settle(made, "a", 10)
    ask(made, "c", 10, at=NOON + DAY)

    assert isinstance(ask(made, "d", 1, at=NOON + DAY - back), Refusal)
    assert isinstance(ask(made, "d", 1, at=NOON + DAY), Refusal)
    assert ask(made, "d", 1, at=NOON + 2 * DAY) == ["b"]


def test_a_clock_that_had_been_years_ahead_is_believed_when_it_is_set_right_and_nothing_is_forgotten() -> None:
    made = ledger(usd())
    ask(made, "a", 7, at=NOON)
    ask(made, "c", 1, at=NOON + 900 * DAY)
    made.prune(NOON)

    assert isinstance(ask(made, "d", 4, at=NOON + 1), Refusal)
    assert ask(made, "d", 3, at=NOON + 1) == ["b"]


def test_a_rolling_window_gives_room_back_when_its_hours_have_passed_and_never_earlier() -> None:
    made = ledger(usd(10, window="rolling 1h"))
    ask(made, "a", 6, at=NOON)
    settle(made, "a", 6)
    ask(made, "c", 4, at=NOON + HOUR // 2)

    refusal = ask(made, "d", 5, at=NOON + HOUR - 1)
    assert isinstance(refusal, Refusal)
    assert refusal.resets_at == datetime(2026, 11, 21, 13, 0, 10, tzinfo=UTC), "ten seconds late at most"
    assert isinstance(ask(made, "d", 5, at=NOON + HOUR), Refusal)
    assert ask(made, "d", 5, at=NOON + HOUR + 10 * SECOND) == ["b"]
    assert refusal.standing.window.start == datetime(2026, 11, 21, 12, tzinfo=UTC) - timedelta(microseconds=1)


def test_what_can_never_fit_has_no_time_at_which_it_will() -> None:
    for window in ("day", "rolling 1h"):
        refusal = ask(ledger(usd(10, window=window)), "a", 11)

        assert isinstance(refusal, Refusal)
        assert (refusal.resets_at, refusal.may_fit_sooner) == (None, False)


# Budgets that change while calls are in flight


def test_a_lowered_limit_holds_for_the_next_call() -> None:
    made = ledger(usd(10))
    ask(made, "a", 6)
    define(made, usd(5))

    refusal = ask(made, "c", "0.01")
    assert isinstance(refusal, Refusal)
    assert refusal.standing.room == -1
    settle(made, "a", 2)
    assert ask(made, "c", 3) == ["b"]
    define(made, usd(20))
    assert ask(made, "d", 15) == ["b"]


def test_a_budget_that_is_deleted_lets_go_and_one_that_is_made_holds_what_is_in_flight() -> None:
    made = ledger(usd(10), usd(10, "other"))
    ask(made, "a", 6, dimensions={"user": "u1"})
    made.apply({"event": "drop", "name": "b"})
    define(made, usd(7, "new", scope={"user": "u1"}))

    assert list(made.terms) == ["other", "new"]
    assert (stand(made, "other"), stand(made, "new")) == ((0, 6), (0, 6))
    assert isinstance(ask(made, "c", 2, dimensions={"user": "u1"}), Refusal)
    settle(made, "a", 1)
    assert (stand(made, "other"), stand(made, "new")) == ((1, 0), (1, 0))


def test_a_budget_whose_window_changes_begins_anew_with_what_is_in_flight() -> None:
    made = ledger(usd(10))
    ask(made, "a", 3)
    settle(made, "a", 3)
    ask(made, "c", 2)
    define(made, usd(10, window="rolling 24h"))

    assert stand(made) == (0, 2)
    settle(made, "c", 1)
    assert stand(made) == (1, 0)


def test_calls_that_never_asked_take_room_too() -> None:
    made = ledger(usd(10, group_by=("user",)))
    made.add_external(made.terms["b"], ("u1",), NOON, Decimal(9))
    assert isinstance(ask(made, "a", 2, dimensions={"user": "u1"}), Refusal)

    made.replace_external("b", [(("u1",), NOON, Decimal(8))])
    assert ask(made, "a", 2, dimensions={"user": "u1"}) == ["b"]


def test_old_windows_are_dropped_and_nothing_of_the_present_ones() -> None:
    made = ledger(usd(10), usd(10, "group", group_by=("user",)), usd(50, "rolling", window="rolling 1h"))
    for day in range(6):
        ask(made, f"a{day}", 1, at=NOON + day * DAY, dimensions={"user": f"u{day}"})
        settle(made, f"a{day}", 1)
    now = NOON + 5 * DAY
    before = [stand(made, at=now), stand(made, "group", ("u5",), at=now), stand(made, "rolling", at=now)]
    made.prune(now)

    assert [stand(made, at=now), stand(made, "group", ("u5",), at=now), stand(made, "rolling", at=now)] == before
    assert sorted(made.groups("group")) == [("u3",), ("u4",), ("u5",)]
    assert len(made.pots["b", ()]) == 3


def test_a_budget_comes_back_from_json_as_it_was() -> None:
    whole = usd(
        "0.1", scope={"feature": "x"}, group_by=("user",), window="rolling 24h", wait=Decimal("1.5"), clamp=True
    )

    assert budget_of(json.loads(json.dumps(as_json(whole)))) == whole


def test_an_event_of_a_newer_version_is_passed_over() -> None:
    made = ledger(usd())
    before = made.dump()
    made.apply({"event": "telepathy"})

    assert made.dump() == before


# All interleavings of a few workers


def test_no_interleaving_of_two_workers_is_billed_more_than_the_limit() -> None:
    found = walk(workers=2, calls=2)

    assert found.states > 1000
    assert (found.worst_billed, found.undercounted) == (LIMIT, 0)


@pytest.mark.parametrize("kind", [Freeing, Repeating, Averaging])
def test_the_walk_finds_the_overshoot_of_a_rule_that_is_broken(kind: type[Ledger]) -> None:
    assert kind in KINDS.values()
    assert walk(kind, workers=2, calls=2, to_the_end=False).worst_billed > LIMIT


# Long random lives


class Life(RuleBasedStateMachine):
    """Calls of any size in nested and grouped budgets, over days, with all that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.at = NOON
        self.asked: dict[str, tuple[int, str, Decimal]] = {}
        """When it was admitted (by the ledger's clock), its user, its worst case."""
        self.billed: dict[str, Decimal] = {}

    @initialize()
    def begin(self) -> None:
        self.ledger = ledger(
            usd(20, "day", window="day", timezone="America/New_York"), usd(9, "user", group_by=("user",)),
            usd(12, "rolling", window="rolling 3h"),
        )  # fmt: skip

    @rule(amount=st.integers(1, 400), user=st.sampled_from(["u1", "u2"]), share=st.integers(0, 100))
    def call(self, amount: int, user: str, share: int) -> None:
        name, worst = f"{len(self.asked):032x}", Decimal(amount) / 100
        outcome = ask(self.ledger, name, worst, at=self.at, dimensions={"user": user})
        if not isinstance(outcome, Refusal):
            assert outcome == ["day", "user", "rolling"]
            self.asked[name] = self.ledger.clock_us, user, worst
            self.billed[name] = worst * share / 100

    @rule(which=st.integers(0, 5), how=st.sampled_from(["settle", "twice", "unknown", "expire", "span", "partly"]))
    def end(self, which: int, how: str) -> None:
        if not self.asked:
            return
        name = list(self.asked)[-1 - which % len(self.asked)]
        if how == "expire":
            expire(self.ledger, name)
        elif how == "unknown":
            settle(self.ledger, name, None)
        elif how in {"span", "partly"}:
            span(self.ledger, name, self.billed[name], certain=how == "span", at=self.asked[name][0])
        else:
            for _ in range(1 + (how == "twice")):
                settle(self.ledger, name, self.billed[name])

    @rule(step=st.sampled_from([SECOND, 3 * HOUR - SECOND, 3 * HOUR, 9 * HOUR, DAY, -HOUR, -9 * HOUR]))
    def later(self, step: int) -> None:
        self.at += step

    @rule()
    def restart(self) -> None:
        before = self.ledger.dump()
        self.ledger = Ledger()
        self.ledger.apply(json.loads(json.dumps(before)))
        assert self.ledger.dump() == before

    @rule()
    def tidy(self) -> None:
        self.ledger.prune(self.ledger.clock_us)

    @invariant()
    def no_window_is_billed_more_than_its_limit(self) -> None:
        if not self.asked:
            return
        for name in self.ledger.terms:
            terms = self.ledger.terms[name]
            groups = [("u1",), ("u2",)] if name == "user" else [()]
            for group in groups:
                standing = self.ledger.standing(name, group, self.at)
                charged = [
                    self.billed[call] for call, (at, user, _) in self.asked.items()
                    if self._is_in(terms, at, standing) and (not group or user == group[0])
                ]  # fmt: skip
                assert sum(charged) <= terms.budget.limit
                assert sum(charged) <= standing.spent + standing.reserved <= terms.budget.limit

    def _is_in(self, terms: Any, at: int, standing: Standing) -> bool:
        start, end = microseconds(standing.window.start), microseconds(standing.window.end)
        return start < at <= end if terms.rolling_us else start <= at < end

    def teardown(self) -> None:
        open_ones = [name for name, found in self.ledger.reservations.items() if found.state == OPEN]
        expire(self.ledger, *open_ones)
        assert all(pot.reserved == 0 for pots in self.ledger.pots.values() for pot in pots.values())


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def replayed(events: list[Event]) -> Ledger:
    made = Ledger()
    for event in events:
        made.apply(json.loads(json.dumps(event)))
    return made


def test_the_same_events_make_the_same_ledger() -> None:
    events: list[Event] = [{"event": "define", "at": NOON - HOUR, "budget": as_json(usd(10)), "source": "file"}]
    first = replayed(events)
    for number in range(4):
        event = first.admit(Demand(id=str(number), dimensions={"user": "u"}, usd=Decimal(2), tokens=5), NOON + number)
        assert isinstance(event, dict)
        events.append(event)
        first.apply(event)
    events += [
        {"event": "expired", "ids": ["0"]},
        {"event": "settled", "settlements": [{"id": "1", "usd": "0.5", "tokens": 3, "calls": 1, "final": True}]},
        {"event": "turned_away", "at": NOON + 9, "budget": "b", "group": []},
    ]
    for event in events[-3:]:
        first.apply(event)

    assert replayed(events).dump() == first.dump()
    assert replayed([first.dump()]).dump() == first.dump()
    assert first.standing("b", (), NOON).refused == 1
