"""A window that rolls over the channels of a wide model: which numbers belong to a channel, and what is kept when it moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import toy
from torch import Tensor, nn
from whole import Federation, State, enrol, init, run_round

from hetfed.algorithms import fedrolex, heterofl
from hetfed.client import Client
from hetfed.composition import compose
from hetfed.data import ClientData, Examples
from hetfed.errors import PlanError
from hetfed.exchanges import Slices
from hetfed.model import Output
from hetfed.payload import Payload, Upload
from hetfed.seeding import generator
from hetfed.tasks import Classification
from hetfed.training import Training

PLACES = 4
"""Of an image of 4 x 4 pixels, a convolution of 3 x 3 leaves 2 x 2 in each channel."""


class Pictures(nn.Module):
    """A convolution, flattened, in front of a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * PLACES, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.norm(self.conv(inputs["image"])).flatten(1)
        return Output(self.head(features), features)


def pictures(n: int, *path: object) -> Examples:
    chance = generator("pictures", *path)
    target = torch.arange(n) % 2
    image = torch.randn(n, 1, 4, 4, generator=chance) + target.view(-1, 1, 1, 1).float()
    return Examples({"image": image}, target, [f"{path[0]}-{i}" for i in range(n)])


def client(name: str, width: int, model: type[nn.Module] = Pictures) -> Client:
    data = ClientData(pictures(16, name, "train"), pictures(8, name, "validation"), pictures(8, name, "test"))
    return Client(name, data, Classification(("low", "high")), lambda spec: model(width), Training(lr=0.02, batch_size=8))


ROLLING = Slices(window="rolling")


@pytest.mark.parametrize("first", range(5))
def test_behind_flatten_the_columns_are_those_of_the_same_channels(first: int) -> None:
    """Two of four channels from `first` on, round and round; each fills four columns in succession."""
    wide, narrow = client("a", 4), client("b", 2)
    server = toy.server_context([wide, narrow], ROLLING)
    state = {**ROLLING.init(server), "window": torch.tensor([first])}
    channels = [first % 4, (first + 1) % 4]
    columns = [PLACES * channel + place for channel in channels for place in range(PLACES)]
    sent = ROLLING.broadcast(server, state, narrow.profile)
    assert sent is not None
    assert torch.equal(sent.tensors["conv.weight"], state["conv.weight"][channels])
    assert torch.equal(sent.tensors["norm.bias"], state["norm.bias"][channels])
    assert torch.equal(sent.tensors["head.weight"], state["head.weight"][:, columns])
    assert torch.equal(sent.tensors["head.bias"], state["head.bias"])
    # And what comes back is put where it was taken from.
    trained = {name: tensor if name == "window" else tensor + 1 for name, tensor in sent.tensors.items()}
    after = toy.update(ROLLING, server, state, {"b": Payload(trained)})
    moved = torch.zeros(2, 4 * PLACES)
    moved[:, columns] = 1
    assert torch.allclose(after["head.weight"] - state["head.weight"], moved, atol=1e-6)
    assert [bool((after["conv.bias"] != state["conv.bias"])[channel]) for channel in range(4)] == [
        channel in channels for channel in range(4)
    ]


def test_a_narrow_model_is_the_wide_one_without_the_other_channels() -> None:
    wide, narrow = client("a", 4), client("b", 2)
    server = toy.server_context([wide, narrow], ROLLING)
    state = {**ROLLING.init(server), "window": torch.tensor([3])}
    whole, part = wide.new_model(0).eval(), narrow.new_model(0).eval()
    image = wide.data.test.inputs
    for model, member in ((whole, wide), (part, narrow)):
        sent = ROLLING.broadcast(server, state, member.profile)
        assert sent is not None
        model.load_state_dict({**model.state_dict(), **{n: t for n, t in sent.tensors.items() if n != "window"}})
    with torch.no_grad():
        # What the wide head has for channels 1 and 2, which the narrow client does not hold at present, is left out.
        head = whole.get_submodule("head")
        assert isinstance(head, nn.Linear)
        head.weight[:, PLACES : 3 * PLACES] = 0
        assert torch.allclose(part(image).logits, whole(image).logits, atol=1e-5)


def states(clients: list[Client], window: str, rounds: int = 3) -> tuple[list[State], list[Upload]]:
    enrolment = enrol(fedrolex() if window == "rolling" else heterofl(), clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, rounds, 0)
    found, uploads = [init(federation)], list[Upload]()
    for _ in range(rounds):
        found.append(run_round(federation, found[-1], on_upload=uploads.append))
    return found, uploads


def test_rounds_of_pictures_go_well() -> None:
    found, uploads = states([client("a", 4), client("b", 2), client("c", 1)], "rolling", 5)
    assert not [upload for upload in uploads if upload.refused]
    windows = [int(u.contents.tensors["window"]) for u in uploads if u.client == "b" and u.contents is not None]
    assert windows == [0, 1, 2, 3, 4]
    whole = found[-1].server["slices"]
    assert all(tensor.isfinite().all() for tensor in whole.values())
    assert not (whole["head.weight"] == found[0].server["slices"]["head.weight"]).any()


class Beside(nn.Module):
    """A number that is nobody's channel stands beside the features of the head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 4)
        self.head = nn.Linear(width + 1, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.conv(inputs["image"]).flatten(1)
        return Output(self.head(torch.cat([features, inputs["image"].mean(dim=(1, 2, 3))[:, None]], dim=1)), features)


class Ambiguous(nn.Module):
    """Two convolutions, one twice as wide as the other: 16 columns may be 8 for each channel of the one, or 4 of the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 1)
        self.second = nn.Conv2d(width, 2 * width, 3)
        self.head = nn.Linear(2 * width * PLACES, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.second(self.first(inputs["image"])).flatten(1)
        return Output(self.head(features), features)


class Uneven(nn.Module):
    """A narrow client's images are flattened to fewer places in each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=1 if width > 2 else 2)
        self.head = nn.Linear(width * (PLACES if width > 2 else 1), 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.conv(inputs["image"]).flatten(1)
        return Output(self.head(features), features)


@pytest.mark.parametrize("model", [Beside, Ambiguous, Uneven])
def test_where_it_is_not_clear_what_belongs_to_a_channel_no_window_rolls(model: type[nn.Module]) -> None:
    clients = [client("a", 4, model), client("b", 2, model)]
    reason = r"slices: a window cannot roll over tensor 'head.weight' of 'b': it holds \d+ of \d+ rows.*Set window = \"first\""
    with pytest.raises(PlanError, match=reason):
        enrol(compose(ROLLING), clients)
    assert enrol(compose(Slices()), clients).composition.steps[0].clients == ("a", "b")
    without_head = compose(replace(ROLLING, exclude=("head",)))
    assert enrol(without_head, clients).composition.steps[0].clients == ("a", "b")


def test_models_of_one_width_have_nothing_to_tell() -> None:
    clients = [client("a", 4, Beside), client("b", 4, Beside)]
    assert enrol(compose(ROLLING), clients).composition.steps[0].clients == ("a", "b")


def test_moments_are_those_of_a_channel_and_go_with_it() -> None:
    """Adam's, at everybody; where the window stays, so do they."""
    clients = [toy.client("a"), toy.client("b", width=2)]
    rolling, first = (states(clients, window)[0][-1] for window in ("rolling", "first"))
    assert [found.optimizer for found in rolling.clients.values()] == [{}, {}]
    assert all("encoder.0.weight/exp_avg" in found.optimizer for found in first.clients.values())
