"""Merging: the uploads of a round become one result for each group of clients, as the exchange declares.

"mean" is the mean by weight, or the robust rule that the step sets; "sum" the sum; "each" hands every upload over. A mean and
a sum are added up while uploads arrive, in the order of the clients' names, so that the result does not depend on who was
fastest; an upload that overtakes another waits for it. Where no robust rule is set, outliers are refused first (`outliers`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hetfed.aggregation import add_up
from hetfed.client import Tensors
from hetfed.context import ServerContext
from hetfed.exchanges.base import Exchange, Merge
from hetfed.outliers import Judged, Limits, Merger, Verdict
from hetfed.payload import Merged, Payload


@dataclass
class Collect:
    """Holds every upload until the end of the round: for what is trained on them, robust rules, and where late ones count.

    Args:
        server: the server as the exchange sees it; it knows the robust rule.
        size: how many clients the group has.
        how: what the exchange asks for: "mean", "sum" or "each".
        sent: the uploads so far, by client name.
    """

    server: ServerContext
    size: int
    how: Merge
    sent: dict[str, Payload] = field(default_factory=dict)

    def add(self, name: str, payload: Payload) -> None:
        """Hold the upload."""
        self.sent[name] = payload

    def skip(self, name: str) -> None:
        """Do nothing: what did not arrive is not held."""

    def merged(self) -> Merged:
        """The mean or the sum of the uploads; all of them, by name, where each is asked for."""
        # By name and not by arrival: a sum of floating-point numbers depends on their order.
        sent = dict(sorted(self.sent.items()))
        share = self.server.share(sent, self.size)
        # No mean is taken, since these tensors need not have the same shapes.
        if self.how == "each":
            return Merged({}, tuple(sent), self.size, share, sent)
        rule = self.server.aggregation if self.how == "mean" else add_up
        return Merged(rule(list(sent.values())), tuple(sent), self.size, share)


@dataclass
class AddUp:
    """Adds uploads up as they arrive, so that the server never holds more than one sum and what waits.

    With `mean`, each is weighed by its share of the weights of all that were asked, in double precision; where somebody's is
    missing, the sum is scaled up in the end.

    Args:
        size: how many clients the group has.
        weights: the declared weight of each client that was asked, by name; the sorted names are the order of addition.
        mean: whether the result is a mean; else a sum without weights.

    >>> import torch
    >>> adding = AddUp(2, {"a": 30.0, "b": 10.0}, mean=True)
    >>> adding.add("b", Payload({"w": torch.tensor([4.0])}, weight=10))  # waits for a
    >>> adding.add("a", Payload({"w": torch.tensor([0.0])}, weight=30))
    >>> adding.merged().tensors
    {'w': tensor([1.])}
    """

    size: int
    weights: Mapping[str, float]
    mean: bool
    total: Tensors = field(default_factory=dict)
    like: Mapping[str, Tensor] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    waiting: dict[str, Payload | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # By name: the order in which bytes arrive differs from run to run.
        self._queue = deque(sorted(self.weights))
        self._sum = sum(self.weights.values())

    def add(self, name: str, payload: Payload) -> None:
        """Add the upload, or let it wait for those whose names come before."""
        self._settle(name, payload)

    def skip(self, name: str) -> None:
        """Wait for this client no longer."""
        # A gap closes the queue up: without it, the sum would wait for the end of the round.
        self._settle(name, None)

    def merged(self) -> Merged:
        """The mean or the sum of what arrived."""
        # Clients that were asked and never heard of again: whoever waits for them is added now.
        while self._queue:
            self._take(self._queue.popleft())
        # Nothing to scale where all of those who sent weigh nothing: then every share is the same.
        arrived = sum(map(self._share, self.names))
        scale = 1 / arrived if self.mean and arrived and len(self.names) < len(self.weights) else None
        found = {
            name: (total if scale is None else total * scale).to(self.like[name].dtype) for name, total in self.total.items()
        }
        return Merged(found, tuple(self.names), self.size)

    def _settle(self, name: str, payload: Payload | None) -> None:
        # A client that has sent by one exchange is not heard of again when its turn ends.
        if name not in self.weights or self.waiting.get(name) is not None or name in self.names:
            return
        self.waiting[name] = payload
        while self._queue and self._queue[0] in self.waiting:
            self._take(self._queue.popleft())

    def _take(self, name: str) -> None:
        payload = self.waiting.pop(name, None)
        if payload is None:
            return
        self.names.append(name)
        self.like = self.like or {key: tensor[:0] if tensor.ndim else tensor for key, tensor in payload.tensors.items()}
        for key, tensor in payload.tensors.items():
            part = self._share(name) * tensor.double() if self.mean else tensor.clone()
            self.total[key] = part if key not in self.total else self.total[key].add_(part)

    def _share(self, name: str) -> float:
        return self.weights[name] / self._sum if self._sum else 1 / len(self.weights)


class Merging:
    """The uploads of one step in one round, by group.

    Args:
        exchange: says how uploads are merged (`merge`).
        server: the server as the exchange sees it; it knows the groups.
        asked: the clients that may send, with the weights they declared; None where a weight is left open.
        limits: what outliers are found by; None where none are looked for.
        verdict: is told of each upload whether it is merged, once that is decided.
    """

    def __init__(
        self,
        exchange: Exchange,
        server: ServerContext,
        asked: Mapping[str, float | None],
        limits: Limits | None = None,
        verdict: Verdict = lambda name, reason: None,
    ) -> None:
        self._exchange, self._server, self._asked = exchange, server, asked
        self._limits, self._told = limits, verdict
        self._sizes = Counter(server.groups.values())
        self._mergers: dict[str, Merger] = {}
        self._arrived: set[str] = set()
        self.accepted = 0

    def add(self, name: str, payload: Payload) -> None:
        """Hand an upload that keeps its declaration to the merger of its group."""
        group = self._server.groups[name]
        # Only groups from which something arrived are merged: `update` never sees an empty one.
        self._arrived.add(group)
        self._merger(group).add(name, payload)
        if self._limits is None:
            self._verdict(name, None)

    def skip(self, name: str) -> None:
        """Note that nothing, or nothing more, will come of this client in this round."""
        if name in self._asked:
            self._merger(self._server.groups[name]).skip(name)

    def merged(self) -> dict[str, Merged]:
        """The result for each group from which something arrived, by the group's name; every verdict has been given then."""
        return {group: self._mergers[group].merged() for group in sorted(self._arrived)}

    def _verdict(self, name: str, reason: str | None) -> None:
        self.accepted += reason is None
        self._told(name, reason)

    def _merger(self, group: str) -> Merger:
        if group not in self._mergers:
            self._mergers[group] = self._new(group)
        return self._mergers[group]

    def _new(self, group: str) -> Merger:
        asked = {name: weight for name, weight in self._asked.items() if self._server.groups[name] == group}
        merger = self._plain(group, asked)
        return merger if self._limits is None else Judged(merger, list(asked), self._limits, self._verdict)

    def _plain(self, group: str, asked: Mapping[str, float | None]) -> Merger:
        how, size = self._exchange.merge, self._sizes[group]
        weights = {name: weight for name, weight in asked.items() if weight is not None}
        # Late uploads come with weights of their own, and a robust rule has to look at all uploads side by side.
        plain = self._server.aggregation.kind == "mean" and not self._server.asynchronous and len(weights) == len(asked)
        if how == "each" or (how == "mean" and not plain) or self._server.asynchronous:
            return Collect(self._server, size, how)
        # A sum counts everybody once, whatever an upload weighs.
        return AddUp(size, weights if how == "mean" else dict.fromkeys(asked, 1.0), mean=how == "mean")
