"""Two clients that hold the same record are found out, by whatever names the record goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toy

from hetfed.client import Client
from hetfed.errors import PlanError
from hetfed.holding import Holding, check_apart


def client(name: str, *records: str, span: str = "") -> Client:
    """A client whose records are called otherwise than those of anybody else, and are these."""
    own = {f"{name} {one}": frozenset({one}) for one in records}
    return replace(toy.client(name), holding=Holding(own, span=span))


def test_a_record_at_two_clients_is_refused_with_its_count() -> None:
    message = r"^client 'c'\.data: 2 of its 3 records are also those of client 'a', and one would learn from what the other"
    with pytest.raises(PlanError, match=message):
        check_apart([client("a", "x", "y"), client("b", "z"), client("c", "v", "x", "y")])
    check_apart([client("a", "x", "y"), client("b", "z")])


def test_what_is_public_is_nobody_s() -> None:
    shown = Holding({"one": frozenset({"x"})})
    clients = [replace(one, public_holding=shown) for one in (client("a", "y"), client("b", "x"))]
    with pytest.raises(PlanError, match=r"^client 'b'\.data: 1 of its 1 records are also those of the public inputs"):
        check_apart(clients)
    check_apart(clients[:1])


def test_a_record_may_be_shared_by_those_who_share_out_its_time_alike() -> None:
    check_apart([client("a", "x", span="first half"), client("b", "x", span="first half")])
    for other in ("first third", ""):
        with pytest.raises(PlanError, match="also those of client 'a'"):
            check_apart([client("a", "x", span="first half"), client("b", "x", span=other)])


def test_a_record_that_nothing_identifies_is_like_no_other() -> None:
    silent = replace(toy.client("a"), holding=Holding({"s": frozenset()}))
    check_apart([silent, replace(silent, name="b")])
