"""Who is next and why the others wait, as pure functions."""

from __future__ import annotations

import pytest

from tidemill.domain.admission import Group, Load, Needs, Reason, choose, in_order, limited, reason

HOST = Needs(cpus=8, memory_bytes=16 * 2**30, gpus=1)


def group(first: int, owner: str = "a", model: str = "m", priority: int = 0, needs: Needs | None = None) -> Group:
    return Group(owner=owner, model=model, priority=priority, needs=needs or Needs(), first=first)


@pytest.mark.parametrize(
    ("needs", "fits"),
    [
        (Needs(), True),
        (Needs(cpus=8, memory_bytes=16 * 2**30, gpus=1), True),
        (Needs(cpus=9), False),
        (Needs(memory_bytes=16 * 2**30 + 1), False),
        (Needs(gpus=2), False),
        (Needs(cpus=0), True),
    ],
)
def test_needs_fit_in_every_dimension(needs: Needs, fits: bool) -> None:
    assert needs.fit(HOST) is fits


def test_what_is_left() -> None:
    left = HOST.minus(Needs(cpus=3, memory_bytes=2**30, gpus=1))
    assert left == Needs(cpus=5, memory_bytes=15 * 2**30, gpus=0)


def test_order_is_priority_then_share_then_turn_then_age() -> None:
    load = Load(running_of_owner={"busy": 2}, served_ms={"late": 50, "early": 10})
    groups = [
        group(1, "busy"),
        group(2, "late"),
        group(3, "early"),
        group(4, "new"),
        group(5, "busy", priority=1),
        group(6, "early", model="n"),
        group(7, "new", priority=-1),
    ]
    assert [each.first for each in in_order(groups, load)] == [5, 4, 3, 6, 2, 1, 7]


@pytest.mark.parametrize(
    ("running", "why"),
    [
        (0, None),
        (1, None),
        (2, Reason.KEY_LIMIT),
        (3, Reason.KEY_LIMIT),
    ],
)
def test_limits_of_keys(running: int, why: Reason | None) -> None:
    load = Load(running_of_owner={"a": running}, limit_of_owner={"a": 2, "b": 0})
    assert limited(group(1), load) is why
    assert limited(group(1, "b"), load) is Reason.KEY_LIMIT
    assert limited(group(1, "c"), load) is None


def test_limits_of_models_come_after_those_of_keys() -> None:
    load = Load(running_of_model={"m": 1}, limit_of_model={"m": 1})
    assert limited(group(1), load) is Reason.MODEL_LIMIT
    assert limited(group(1, model="n"), load) is None
    both = Load(running_of_model={"m": 1}, limit_of_model={"m": 1}, limit_of_owner={"a": 0})
    assert limited(group(1), both) is Reason.KEY_LIMIT


def test_nothing_waits() -> None:
    assert choose([], Load(), free=HOST, host=HOST) is None


def test_limited_ones_are_passed_over() -> None:
    load = Load(limit_of_owner={"a": 0})
    assert choose([group(1), group(2, "b")], load, free=HOST, host=HOST) == 2


def test_one_that_never_fits_is_passed_over() -> None:
    groups = [group(1, needs=Needs(gpus=2)), group(2)]
    assert choose(groups, Load(), free=HOST, host=HOST) == 2


def test_one_that_would_fit_is_waited_for() -> None:
    groups = [group(1, needs=Needs(cpus=8)), group(2)]
    assert choose(groups, Load(), free=HOST.minus(Needs(cpus=1)), host=HOST) is None
    assert choose(groups, Load(), free=HOST, host=HOST) == 1


def test_a_limited_big_one_is_not_waited_for() -> None:
    groups = [group(1, needs=Needs(cpus=8)), group(2, "b")]
    load = Load(limit_of_owner={"a": 0})
    assert choose(groups, load, free=HOST.minus(Needs(cpus=1)), host=HOST) == 2


@pytest.mark.parametrize(
    ("first", "place", "hosts", "why"),
    [
        (group(1), 1, [], Reason.NO_WORKER),
        (group(1), 1, [(HOST, HOST)], Reason.NEXT),
        (group(1), 2, [(HOST, HOST)], Reason.BEHIND),
        (group(1), 1, [(Needs(cpus=0), HOST)], Reason.HOST_BUSY),
        (group(1), 1, [(Needs(cpus=0), HOST), (HOST, HOST)], Reason.NEXT),
        (group(1), 3, [(Needs(cpus=0), HOST)], Reason.BEHIND),
        (group(1, needs=Needs(gpus=2)), 1, [(HOST, HOST)], Reason.TOO_BIG),
        (group(1, needs=Needs(gpus=2)), 5, [(HOST, HOST)], Reason.TOO_BIG),
        (group(1, "full"), 1, [(HOST, HOST)], Reason.KEY_LIMIT),
        (group(1, "full", needs=Needs(gpus=2)), 4, [(HOST, HOST)], Reason.KEY_LIMIT),
        (group(1, model="full"), 9, [(HOST, HOST)], Reason.MODEL_LIMIT),
        (group(1, "full"), 1, [], Reason.NO_WORKER),
    ],
)
def test_reasons(first: Group, place: int, hosts: list[tuple[Needs, Needs]], why: Reason) -> None:
    load = Load(limit_of_owner={"full": 0}, limit_of_model={"full": 0})
    assert reason(first, place, load, hosts) is why
