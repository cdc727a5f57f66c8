"""A tiny vertical: two classes in the plane, clients of differing models. Everything that the core's tests run on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from whole import Engine, Federation, State, enrol, init, local, run_round

from hetfed.aggregation import Aggregation
from hetfed.client import Client, Tensors
from hetfed.composition import Composition
from hetfed.context import ClientContext, ServerContext, Work
from hetfed.data import ClientData, Examples, Spec
from hetfed.exchanges import Exchange
from hetfed.merging import Merging
from hetfed.model import Output
from hetfed.parts import live_tensors
from hetfed.payload import Merged, Payload, Upload
from hetfed.plan import Plan
from hetfed.profile import Profile
from hetfed.seeding import generator
from hetfed.tasks import Classification
from hetfed.training import Training

SAMPLE = """
title = "A toy"
[federation]
rounds = 3
[[exchange]]
kind = "shared-parameters"
part = "head"
[[exchange]]
kind = "prototypes"
every = 2
[[client]]
name = "b"
[[client]]
name = "a"
model = { width = 5 }
[[client]]
name = "c"
data = { n = 17 }
training = { optimizer = "sgd", momentum = 0.5 }
"""


class Net(nn.Module):
    """An encoder of some width with batch normalisation and dropout, projected to three features, and a head."""

    def __init__(self, inputs: int, width: int, classes: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3)
        )
        self.head = nn.Linear(3, classes)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.encoder(inputs["point"])
        return Output(self.head(features), features)


def examples(n: int, *path: object, one_class: bool = False) -> Examples:
    """Points whose class is the side of a line, with noise."""
    chance = generator("toy", *path)
    target = torch.zeros(n, dtype=torch.long) if one_class else torch.arange(n) % 2
    points = torch.randn(n, 2, generator=chance) + target[:, None].float() * 1.5
    return Examples({"point": points}, target, [f"{path[0]}-{i}" for i in range(n)])


def net(spec: Spec) -> nn.Module:
    """The model of every client of the toy federation."""
    return Net(spec["inputs"], spec["width"])


def client(name: str, *, n: int = 24, width: int = 4, one_class: bool = False, training: Training | None = None) -> Client:
    """A client of the toy federation."""

    train = examples(n, name, "train", one_class=one_class)
    data = ClientData(
        train, examples(12, name, "validation", one_class=one_class), examples(20, name, "test"), {"inputs": 2, "width": width}
    )
    if one_class:
        data = replace(data, test=examples(20, name, "test", one_class=True))
    training = training or Training(lr=0.02, batch_size=8)
    public = examples(10, "public")
    task = Classification(("low", "high"))
    return Client(name, data, task, net, training, public, kind=f"width {width} {training.model_dump_json()}")


def client_context(
    client: Client, *, round_number: int = 1, memory: Tensors | None = None, peers: Sequence[Client] = ()
) -> ClientContext:
    """A client at work on its live module."""
    named = {p.name: p.profile for p in [client, *peers]}
    model, held = client.module, {} if memory is None else memory
    return ClientContext(
        client.profile, client.task, client.data.train, model, live_tensors(model), 0, round_number, held, named,
        public=client.public, augment=client.augment, work=Work(lr=client.training.lr),
    )  # fmt: skip


def server_context(
    members: Sequence[Client] = (),
    exchange: Exchange | None = None,
    *,
    seed: int = 0,
    round_number: int = 1,
    aggregation: Aggregation | None = None,
) -> ServerContext:
    """The server at work on an exchange of these clients."""
    profiles: dict[str, Profile] = {client.name: client.profile for client in members}
    groups = {name: "" if exchange is None else exchange.group(profile) for name, profile in profiles.items()}
    public = {client.name: client.public for client in members if client.public is not None}
    rule = aggregation or Aggregation()
    return ServerContext(profiles, seed, round_number, groups=groups, public=public, aggregation=rule)


def merged(exchange: Exchange, server: ServerContext, uploads: Mapping[str, Payload]) -> dict[str, Merged]:
    """What uploads by client name come to; clients that the server does not know are of one group."""
    known = {**dict.fromkeys(uploads, ""), **server.groups}
    merging = Merging(exchange, replace(server, groups=known), {name: upload.weight for name, upload in uploads.items()})
    for name, upload in uploads.items():
        merging.add(name, upload)
    return merging.merged()


def update(exchange: Exchange, server: ServerContext, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
    """The server's next state after these uploads."""
    return exchange.update(server, state, merged(exchange, server, uploads))


def federate(
    clients: Sequence[Client],
    composition: Composition,
    rounds: int = 1,
    *,
    engine: Engine = local,
    quorum: int = 1,
    seed: int = 0,
) -> tuple[State, list[Upload]]:
    """The state after so many rounds, and every upload of them."""
    enrolment = enrol(composition, clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, rounds, seed, quorum=quorum)
    uploads: list[Upload] = []
    state = init(federation)
    for _ in range(rounds):
        state = run_round(federation, state, engine, on_upload=uploads.append)
    return state, uploads


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two dictionaries of tensors agree to the last bit."""
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


class ToyVertical:
    """Implements `hetfed.vertical.Vertical`."""

    name = "toy"
    help = "A toy."

    def __init__(self) -> None:
        self.plans = Path(tempfile.mkdtemp())
        self.studies = self.plans
        (self.plans / "sample.toml").write_text(SAMPLE, encoding="utf-8")

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        """The clients of a plan."""
        return [
            client(
                table.name,
                n=table.data.get("n", 24),
                width=table.model.get("width", 4),
                one_class=table.data.get("one_class", False),
                training=table.training,
            )
            for table in plan.client
        ]
