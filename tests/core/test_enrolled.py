"""What is refused before the first round though every client and every exchange is in order by itself."""

from __future__ import annotations

import pytest
import toy

from hetfed.errors import PlanError
from hetfed.evaluation import Evaluation, Outcome
from hetfed.plan import read_plan
from hetfed.run.enrolled import enrolled
from hetfed.tasks import Metrics

FEDERATION = "[federation]\nrounds = 2\n"
SHARED = '[[exchange]]\nkind = "shared-parameters"\npart = "head"\n'
CLIENTS = "".join(f'[[client]]\nname = "{name}"\n' for name in "abc")


def settle(*tables: str) -> object:
    return enrolled(read_plan("".join(tables) + CLIENTS, "plan.toml"), [toy.client(name) for name in "abc"])


def test_a_quorum_of_more_than_are_asked_is_refused() -> None:
    half = "[participation]\nfraction = 0.5\n"
    with pytest.raises(
        PlanError, match=r"federation\.quorum: only 2 of 3 clients are asked in a round.*\(value: 3\)\. Set it to 2"
    ):
        settle(FEDERATION, "quorum = 3\n", half, SHARED)
    settle(FEDERATION, "quorum = 2\n", half, SHARED)
    settle(FEDERATION, "quorum = 3\n", half, "time_limit = 1.0\nasynchronous = true\n", SHARED)


def test_a_quorum_of_more_than_take_part_is_refused() -> None:
    pair = 'clients = ["a", "b"]\n'
    with pytest.raises(PlanError, match=r"federation\.quorum: only 2 clients take part in 'shared-parameters'"):
        settle(FEDERATION, "quorum = 3\n", SHARED, pair)
    # A common start needs nobody's upload.
    settle(FEDERATION, "quorum = 3\n", SHARED, pair, "until = 0\n")


def test_a_round_in_which_nothing_trains_is_refused() -> None:
    with pytest.raises(PlanError, match=r"phase: nothing trains in round 1 of 2\. Let `after` and `until`"):
        settle(FEDERATION, SHARED, "[[phase]]\nafter = 1\n")
    settle(FEDERATION, SHARED, "[[phase]]\nafter = 1\n[[phase]]\nuntil = 1\n")


def test_what_differs_by_rounding_alone_is_the_same() -> None:
    """47 of 54 pairs in the right order, summed up in single precision in two orders."""
    one, other = (
        Outcome.of(
            Evaluation(Metrics({"AUROC": v}), 0.5, v, (v, -0.5)), 1, Evaluation(Metrics({"AUROC": v}), 0.5, v, (v, -0.5))
        )
        for v in (0.8703703284, 0.8703703880)
    )
    assert one == other and one.value == 0.87037
