"""Parameters that stand on columns are merged only where the columns agree by name and order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
import toy
from torch import Tensor, nn

from hetfed.client import Client
from hetfed.composition import compose, enrol
from hetfed.errors import PlanError
from hetfed.exchanges import SharedParameters
from hetfed.model import Output
from hetfed.payload import Declaration


class TwoParts(nn.Module):
    """`first` reads the point, `second` stands on what the first makes of it."""

    reads_input = MappingProxyType({"first": "point"})

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(self.head(self.second(self.first(inputs["point"]).relu())))


def client(name: str, *columns: str, tells: bool = True) -> Client:
    """A client whose input has these columns, and whose model says what reads them, or does not."""
    model_fn = (lambda spec: TwoParts()) if tells else toy.net
    return replace(toy.client(name), columns={"point": columns} if columns else {}, model_fn=model_fn)


def declared(part: str, one: Client) -> Declaration:
    return SharedParameters(part).declare(one.profile)


def test_only_what_stands_on_columns_depends_on_their_names() -> None:
    a, b = client("a", "TP53", "IDH1"), client("b", "IDH1", "TP53")
    assert declared("first", a).columns == {"point": ("TP53", "IDH1")}
    assert declared("second", a).columns == declared("head", a).columns == {}
    assert declared("second", a).group == declared("second", b).group
    assert declared("first", a).group != declared("first", b).group


@pytest.mark.parametrize(("part", "tells"), [("first", True), ("encoder", False)])
def test_columns_in_another_order_are_not_averaged(part: str, tells: bool) -> None:
    """A model that does not say what reads what stands on all of them, but for its head."""
    clients = [client("a", "TP53", "IDH1", tells=tells), client("b", "IDH1", "TP53", tells=tells)]
    profiles = [one.profile for one in clients]
    with pytest.raises(
        PlanError,
        match=r"the columns of 'point' are \(TP53, IDH1\) at the one and \(IDH1, TP53\) at the other. Put the columns",
    ):
        enrol(compose(SharedParameters(part)), profiles)
    assert enrol(compose(SharedParameters("head")), profiles).left_out == {}
    with pytest.raises(PlanError, match="a, b: nobody else has the same tensors there"):
        enrol(compose(SharedParameters(part, among="same-shape")), profiles)


def test_groups_are_those_of_equal_columns() -> None:
    named = {"a": ("x", "y"), "b": ("y", "x"), "c": ("x", "y"), "d": ("y", "x")}
    profiles = [client(name, *columns).profile for name, columns in named.items()]
    exchange = SharedParameters("first", among="same-shape")
    groups = {profile.name: exchange.group(profile) for profile in profiles}
    assert groups["a"] == groups["c"] != groups["b"] == groups["d"]


def test_clients_without_names_of_columns_are_merged_by_shape() -> None:
    profiles = [client("a").profile, client("b").profile]
    assert enrol(compose(SharedParameters("first")), profiles).left_out == {}
