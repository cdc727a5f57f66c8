"""Outliers among the uploads of a round are refused, told of, and move nothing; what honest clients send is not touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from whole import Engine, local

from hetfed.aggregation import Aggregation
from hetfed.composition import Step, compose
from hetfed.errors import PlanError
from hetfed.exchanges import ControlVariates, LogitDistillation, Prototypes, SharedParameters
from hetfed.merging import AddUp
from hetfed.outliers import TOGETHER, Judged, Limits, outliers
from hetfed.payload import Declaration, Merged, Payload, TensorRule
from hetfed.turn import Job, Round, Turn

SIZE = 4000


def honest(count: int, seed: int = 0, lengths: tuple[float, ...] = ()) -> dict[str, dict[str, Tensor]]:
    """Changes that go one way, each with as much of its own beside it."""
    chance = torch.Generator().manual_seed(seed)
    way = torch.randn(SIZE, generator=chance)
    scale = lengths or (1.0,) * count
    return {f"{i:03}": {"w": scale[i] * (way + torch.randn(SIZE, generator=chance))} for i in range(count)}


@given(st.integers(3, 12), st.integers(0, 9))
def test_honest_clients_are_no_outliers_though_one_goes_four_times_as_far(count: int, seed: int) -> None:
    assert outliers(honest(count, seed), {}) == {}
    assert outliers(honest(count, seed, (4.0,) + (1.0,) * (count - 2) + (0.05,)), {}) == {}


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (lambda mean: -mean, "against the way of the others"),
        (lambda mean: -10 * mean, "against the way of the others"),
        (lambda mean: -100 * mean, "times as long as the median"),
        (lambda mean: 100 * mean, "times as long as the median"),
        (lambda mean: torch.full_like(mean, 100.0), "times as long as the median"),
        (lambda mean: 30 * torch.randn(SIZE, generator=torch.Generator().manual_seed(5)), "times as long as the median"),
    ],
)
def test_two_hostile_of_eight_are_found_and_nobody_else(hostile: Callable[[Tensor], Tensor], reason: str) -> None:
    sent = honest(8)
    mean = torch.stack([sent[f"{i:03}"]["w"] for i in range(6)]).mean(dim=0)
    sent |= {name: {"w": hostile(mean)} for name in ("006", "007")}
    found = outliers(sent, {})
    assert set(found) == {"006", "007"}
    assert all(reason in words for words in found.values())


def test_a_change_is_from_what_was_sent() -> None:
    """Long weights hide a change; what counts is how far each went from where it was sent."""
    base = {"w": torch.full((SIZE,), 50.0)}
    sent = {name: {"w": base["w"] + change["w"]} for name, change in honest(5).items()}
    sent["000"] = {"w": base["w"] * 2}
    assert set(outliers(sent, dict.fromkeys(sent, base))) == {"000"}
    assert outliers(sent, {}) == {}


def test_of_two_uploads_nobody_can_tell_and_few_numbers_point_anywhere() -> None:
    sent = honest(2)
    assert outliers({**sent, "001": {"w": -900 * sent["001"]["w"]}}, {}) == {}
    small = {name: {"w": torch.tensor([1.0, 0.5])} for name in "abcde"}
    assert outliers({**small, "e": {"w": torch.tensor([-1.0, -0.5])}}, {}) == {}
    assert set(outliers({**small, "e": {"w": torch.tensor([-100.0, -0.5])}}, {})) == {"e"}


def test_where_uploads_may_be_late_lengths_count_alone() -> None:
    """A late upload lacks what the others have gone since, and seems to go back."""
    sent = honest(6)
    sent["000"] = {"w": -sent["000"]["w"]}
    assert set(outliers(sent, {})) == {"000"}
    assert outliers(sent, {}, directions=False) == {}
    assert set(outliers({**sent, "001": {"w": 90 * sent["001"]["w"]}}, {}, directions=False)) == {"001"}


def test_where_most_change_nothing_nobody_is_an_outlier() -> None:
    still = {name: {"w": torch.zeros(SIZE)} for name in "abc"}
    assert outliers({**still, "d": {"w": torch.ones(SIZE)}}, {}) == {}
    assert outliers(still, {}) == {}


def hostile(change: Callable[[Tensor], Tensor], name: str = "b") -> Engine:
    """An engine in which one client sends something else of floating-point numbers."""

    def engine(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        for client, turn in local(jobs, this):
            assert isinstance(turn, Turn)
            if client == name:
                sent = {label: Payload.decode(encoded) for label, encoded in turn.outbox.items()}
                outbox = {
                    label: replace(p, tensors={k: t if k == "counts" else change(t) for k, t in p.tensors.items()}).encoded
                    for label, p in sent.items()
                }
                yield client, replace(turn, outbox=outbox)
            else:
                yield client, turn

    return engine


def lost(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
    for client, turn in local(jobs, this):
        assert isinstance(turn, Turn)
        yield client, replace(turn, outbox={}) if client == "b" else turn


@pytest.mark.parametrize("exchange", [SharedParameters(), ControlVariates(), LogitDistillation(), Prototypes()], ids=str)
def test_an_outlier_is_refused_with_its_reason_and_the_rest_is_merged_as_if_it_were_lost(exchange: object) -> None:
    clients = [toy.client(name) for name in "abcd"]
    state, sent = toy.federate(clients, compose(exchange), 2, engine=hostile(lambda t: (t + 1) * 1000))
    assert {upload.client for upload in sent if upload.refused} == {"b"}
    assert all("times as long as the median" in upload.refused for upload in sent if upload.client == "b")
    assert all(row.refused == (row.client == "b") for row in state.rows)
    assert all(upload.contents is None for upload in sent if upload.refused)
    without, _ = toy.federate(clients, compose(exchange), 2, engine=lost)
    for label, server in state.server.items():
        assert toy.same(server, without.server[label])


def test_a_server_that_cannot_look_accepts_them_and_a_robust_rule_sees_to_them_itself() -> None:
    clients = [toy.client(name) for name in "abcd"]
    for rule in (Aggregation(outliers="accept"), Aggregation("median")):
        step = Step(SharedParameters(), aggregation=rule)
        _, sent = toy.federate(clients, compose(step), engine=hostile(lambda t: (t + 1) * 1000))
        assert not any(upload.refused for upload in sent)


def test_outliers_may_be_accepted_where_no_mean_is_taken_and_a_robust_rule_may_not_be_set() -> None:
    clients = [toy.client(name) for name in "abc"]
    _, sent = toy.federate(
        clients,
        compose(Step(ControlVariates(), aggregation=Aggregation(outliers="accept"))),
        engine=hostile(lambda t: t + 1000),
    )
    assert not any(upload.refused for upload in sent)
    with pytest.raises(PlanError, match="takes no mean"):
        toy.federate(clients, compose(Step(ControlVariates(), aggregation=Aggregation("median"))))


def judged(names: list[str], told: dict[str, str | None]) -> Judged:
    declared = dict.fromkeys(names, Declaration({"w": TensorRule((SIZE,))}, weight=1.0, relative="change"))
    limits = Limits(declared, lambda name: {})
    return Judged(AddUp(len(names), dict.fromkeys(names, 1.0), mean=True), names, limits, told.__setitem__)


@pytest.mark.parametrize("count", [TOGETHER, TOGETHER + 1, 3 * TOGETHER + 5])
def test_no_more_uploads_are_held_than_are_looked_at_together(count: int) -> None:
    sent, told = honest(count), dict[str, str | None]()
    sent["004"] = {"w": -50 * sent["004"]["w"]}
    names = sorted(sent)
    judging = judged(names, told)
    for name in names:
        judging.add(name, Payload(sent[name]))
        judging.skip(name)  # its turn has ended
        assert sum(payload is not None for payload in judging.held.values()) < TOGETHER
    merged = judging.merged()
    assert merged.names == tuple(name for name in names if name != "004")
    assert {name for name, reason in told.items() if reason} == {"004"}
    assert set(told) == set(names)


@given(st.permutations([f"{i:03}" for i in range(7)]))
def test_the_order_of_arrival_changes_no_verdict_and_no_bit(order: list[str]) -> None:
    sent = honest(7)
    sent["003"] = {"w": -9 * sent["003"]["w"]}

    def found(names: list[str]) -> tuple[Merged, dict[str, str | None]]:
        told: dict[str, str | None] = {}
        judging = judged(sorted(sent), told)
        for name in names:
            judging.skip(name) if name == "005" else judging.add(name, Payload(sent[name]))
        return judging.merged(), told

    (one, words), (other, again) = found(order), found(sorted(sent))
    assert torch.equal(one.tensors["w"], other.tensors["w"])
    assert words == again
    assert words["003"] and "005" not in words


def test_of_what_stands_by_itself_lengths_count_alone() -> None:
    """Honest predictions and class means may well be opposite."""
    sent = {name: Payload(change) for name, change in honest(6).items()}
    sent["000"] = Payload({"w": -sent["000"].tensors["w"]})
    for relative, expected in (("change", {"000"}), ("nothing", set())):
        declared = dict.fromkeys(sent, Declaration({"w": TensorRule((SIZE,))}, relative=relative))
        assert set(Limits(declared, lambda name: {}).outliers(sent)) == expected
