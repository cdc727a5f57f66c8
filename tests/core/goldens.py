"""A round or two of each algorithm, computed by hand: closed forms on a line through the origin, else plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
import toy
from torch import Tensor, nn
from torch.nn import functional as F
from whole import Engine, Federation, State, enrol, init, local, run_round

from hetfed.client import Client, Tensors
from hetfed.data import ClientData, Examples, Spec
from hetfed.model import Output
from hetfed.participation import Participation
from hetfed.payload import Upload
from hetfed.plan import named_algorithm
from hetfed.seeding import generator
from hetfed.tasks import Classification, Regression, Task
from hetfed.training import Training

LR = 0.1
"""Of plain gradient descent on the whole of a client's data, one step per epoch."""


class Done(NamedTuple):
    """The state before the first round, the states after each one, and all uploads."""

    before: State
    after: list[State]
    uploads: list[Upload]

    def sent(self, client: str, number: int = 1) -> Tensors:
        """All that a client uploaded in a round."""
        mine = [upload for upload in self.uploads if (upload.client, upload.round) == (client, number)]
        return {key: tensor for upload in mine for key, tensor in upload.contents.tensors.items()}


def run(name: str, clients: list[Client], rounds: int = 1, engine: Engine = local, **settings: object) -> Done:
    """So many rounds of an algorithm."""
    enrolment = enrol(named_algorithm(name, settings).over(rounds), clients)
    tolerant = Participation(tolerate_failures=True)
    federation = Federation.of(enrolment.clients, enrolment.composition, rounds, 0, participation=tolerant)
    states, uploads = [init(federation)], []
    for _ in range(rounds):
        states.append(run_round(federation, states[-1], engine, on_upload=uploads.append))
    return Done(states[0], states[1:], uploads)


def held(state: State, label: str = "shared-parameters") -> Tensors:
    """What the server holds, under the clients' names for it."""
    return {key.rpartition("/")[2]: t for key, t in state.server[label].items() if not key.startswith("moments of")}


class Line(nn.Module):
    """y = w x, starting at w = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(self.head(inputs["x"])[:, 0])


def line(name: str, x: list[float], y: list[float], epochs: int = 1, public: list[float] | None = None) -> Client:
    """A client that fits a line."""

    def examples(x: list[float], y: list[float]) -> Examples:
        return Examples({"x": torch.tensor(x)[:, None]}, torch.tensor(y), [str(i) for i in range(len(x))])

    data = ClientData(examples(x, y), examples(x, y), examples(x, y))
    training = Training(optimizer="sgd", lr=LR, batch_size=99, epochs=epochs)
    shown = examples(public, public) if public else None
    return Client(name, data, Regression(), lambda spec: Line(), training, shown)


def a_and_b(epochs: int = 1, public: list[float] | None = None) -> list[Client]:
    """Two lines. The gradient of the mean squared error is 2 (mean(x x) w - mean(x y)):

    a: 5 w - 5, two examples; b: 2 w - 10, three examples. One step from 0 leads to 0.5 and to 1, a second one to 0.75 and 1.8.
    """
    return [
        line("a", [1.0, 2.0], [1.0, 2.0], epochs, public),
        line("b", [1.0, 1.0, 1.0], [5.0, 5.0, 5.0], epochs, public),
    ]


def w(state: State, client: str, name: str = "head.weight") -> float:
    """A client's slope."""
    return state.clients[client].model[name].item()


def near(value: float) -> object:
    """Equal but for rounding."""
    return pytest.approx(value, rel=1e-5, abs=1e-7)


def alone() -> None:
    done = run("alone", a_and_b(epochs=2))
    assert w(done.after[0], "a") == near(0.75)
    assert w(done.after[0], "b") == near(1.8)


def fedavg() -> None:
    done = run("fedavg", a_and_b())
    assert held(done.after[0])["head.weight"].item() == near((2 * 0.5 + 3 * 1.0) / 5)


def fedprox() -> None:
    """The second step is pulled back by LR mu w, with mu = 2: by 0.1 and by 0.2."""
    done = run("fedprox", a_and_b(epochs=2), mu=2.0)
    assert held(done.after[0])["head.weight"].item() == near((2 * (0.75 - 0.1) + 3 * (1.8 - 0.2)) / 5)


def adaptive(name: str, second: float, first: float, lr: float) -> None:
    """The mean change is 0.8; the server moves from 0 by lr first / (sqrt(second) + tau)."""
    done = run(name, a_and_b(), lr=lr)
    assert held(done.after[0])["head.weight"].item() == near(lr * first / (math.sqrt(second) + 1e-3))


def fedadam() -> None:
    adaptive("fedadam", 0.99 * 1e-6 + 0.01 * 0.64, 0.1 * 0.8, 0.1)


def fedyogi() -> None:
    adaptive("fedyogi", 1e-6 + 0.01 * 0.64, 0.1 * 0.8, 0.01)


def fedadagrad() -> None:
    adaptive("fedadagrad", 1e-6 + 0.64, 0.8, 0.1)


def scaffold() -> None:
    """Round 1 is FedAvg; the variates are the gradients at 0: -5 and -10, their mean -7.5. Round 2 starts from 0.8, where the
    gradients are -1 and -8.4: corrected, -1 + 5 - 7.5 = -3.5 and -8.4 + 10 - 7.5 = -5.9."""
    done = run("scaffold", a_and_b(), rounds=2)
    assert held(done.after[0])["head.weight"].item() == near(0.8)
    assert held(done.after[0], "control-variates")["head.weight"].item() == near(-7.5)
    assert w(done.after[1], "a") == near(0.8 + 0.35)
    assert w(done.after[1], "b") == near(0.8 + 0.59)
    assert held(done.after[1], "control-variates")["head.weight"].item() == near((-1 - 8.4) / 2)


def lg_fedavg() -> None:
    """A line is nothing but a head."""
    done = run("lg-fedavg", a_and_b(epochs=2))
    assert held(done.after[0])["head.weight"].item() == near((2 * 0.75 + 3 * 1.8) / 5)


def ditto() -> None:
    """Copies train by themselves; own models are pulled, in the second step, by LR lambda times their distance from 0."""
    done = run("ditto", a_and_b(epochs=2), weight=2.0)
    assert [w(done.after[0], "a"), w(done.after[0], "b")] == [near(0.75 - 0.1), near(1.8 - 0.2)]
    assert held(done.after[0])["companion.head.weight"].item() == near((2 * 0.75 + 3 * 1.8) / 5)


def pfedme() -> None:
    """In the second step own models are pulled by LR lambda w to the copies, which are pulled as far to them."""
    done = run("pfedme", a_and_b(epochs=2), weight=2.0)
    assert [w(done.after[0], "a"), w(done.after[0], "b")] == [near(0.75 - 0.1), near(1.8 - 0.2)]
    assert held(done.after[0])["companion.head.weight"].item() == near((2 * 0.1 + 3 * 0.2) / 5)


def apfl() -> None:
    """a: with share 0.5 of an own line v and a copy u, both 0. Step 1: v = LR 0.5 5 = 0.25, u = 0.5, the share stays, as
    v - u = 0. Step 2: the mixture is 0.375, its gradient 5 (0.375 - 1) = -3.125, hence v = 0.25 + LR 0.5 3.125, and the share
    moves by -LR (v - u) (-3.125) = -LR 0.25 3.125."""
    done = run("apfl", a_and_b(epochs=2))
    assert w(done.after[0], "a") == near(0.40625)
    assert w(done.after[0], "a", "mixture") == near(0.421875)
    assert w(done.after[0], "a", "companion.head.weight") == near(0.75)
    assert held(done.after[0])["companion.head.weight"].item() == near((2 * 0.75 + 3 * 1.8) / 5)


def fedmd() -> None:
    """On public x = 1, 2 the consensus after round 1 is 0.75 x. Digesting takes a step of LR 2 mean(x x) = 0.5 of the distance
    to it: 0.625 and 0.875. The round's own step leads to 0.625 - LR (5 0.625 - 5) and 0.875 - LR (2 0.875 - 10)."""
    done = run("fedmd", a_and_b(public=[1.0, 2.0]), rounds=2)
    assert done.after[0].server["logit-distillation"]["logits"].tolist() == [near(0.75), near(1.5)]
    assert [w(done.after[1], "a"), w(done.after[1], "b")] == [near(0.8125), near(1.7)]
    assert done.after[1].server["logit-distillation"]["logits"].tolist() == [near(1.25625), near(2.5125)]


def feddf() -> None:
    """The mean model is at 0.8, the ensemble, where all count the same, at 0.75; Adam's first step is lr long."""
    done = run("feddf", a_and_b(public=[1.0, 2.0, 3.0, 4.0, 5.0]), epochs=1, lr=1e-3)
    assert held(done.after[0], "distilled-parameters")["head.weight"].item() == near(0.8 - 1e-3)


def codistillation() -> None:
    """After round 1 the slopes are a 0.5, b 1, c 0.2. a hears b and c by how small their losses on a's data are:
    mean((w - 1)^2 x x) = 2.5 (w - 1)^2. Its second step is 0.5 - LR (5 0.5 - 5) - LR 2 2.5 (0.5 - what they say)."""
    clients = [*a_and_b(), line("c", [1.0], [1.0])]
    done = run("codistillation", clients, rounds=2, every=1)
    losses = [2.5 * (slope - 1) ** 2 for slope in (1.0, 0.2)]
    weights = np.exp(-np.array(losses)) / np.exp(-np.array(losses)).sum()
    assert w(done.after[1], "a") == near(0.75 - LR * 5 * (0.5 - weights @ [1.0, 0.2]))


class Small(nn.Module):
    """Two inputs, a few features, two classes; nothing in it is random."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, width)
        self.head = nn.Linear(width, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.encoder(inputs["point"]).tanh()
        return Output(self.head(features), features)


TWO = Classification(("low", "high"))


def small(name: str, n: int, *, width: int = 3, epochs: int = 2, common: int = 2, task: Task = TWO) -> Client:
    """A client with such a model; the common model is `common` wide."""

    def model_fn(spec: Spec) -> nn.Module:
        return Small(width)

    data = toy.examples(n, name)
    training = Training(optimizer="sgd", lr=LR, batch_size=99, epochs=epochs)
    public, other = toy.examples(6, "public"), lambda spec: Small(common)
    return Client(name, ClientData(data, data, data), task, model_fn, training, public, common_fn=other)


def pair(**settings: int) -> list[Client]:
    """Two of them, with more data at the second."""
    return [small("a", 8, **settings), small("b", 12, **settings)]


def sees(p: Tensors, x: Tensor, prefix: str = "") -> Tensor:
    """Features of a `Small` with these parameters."""
    return torch.tanh(x @ p[f"{prefix}encoder.weight"].T + p[f"{prefix}encoder.bias"])


def says(p: Tensors, x: Tensor, prefix: str = "") -> tuple[Tensor, Tensor]:
    """Logits and features of a `Small` with these parameters."""
    features = sees(p, x, prefix)
    return features @ p[f"{prefix}head.weight"].T + p[f"{prefix}head.bias"], features


def entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, written out."""
    return (logits.exp().sum(dim=1).log() - logits[torch.arange(len(target)), target]).mean()


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """The mean over examples of KL(teacher, student); the teacher learns nothing."""
    p = teacher.detach().softmax(dim=1)
    return (p * (p.log() - student.log_softmax(dim=1))).sum(dim=1).mean()


def descend(start: Tensors, loss: Callable[[Tensors], Tensor], steps: int, only: str = "") -> Tensors:
    """Plain gradient descent of the tensors whose names begin with `only`."""
    p = {name: tensor.clone().requires_grad_(name.startswith(only)) for name, tensor in start.items()}
    for _ in range(steps):
        learning = [name for name in p if p[name].requires_grad]
        found = torch.autograd.grad(loss(p), [p[name] for name in learning], allow_unused=True)
        for name, gradient in zip(learning, found, strict=True):
            if gradient is not None:
                p[name] = (p[name] - LR * gradient).detach().requires_grad_()
    return {name: tensor.detach() for name, tensor in p.items()}


def own_loss(client: Client) -> Callable[[Tensors], Tensor]:
    """The loss of a `Small` on its client's data."""
    train = client.data.train
    return lambda p: entropy(says(p, train.inputs["point"])[0], train.target)


def mean(clients: list[Client], tensors: list[Tensors], names: object) -> Tensors:
    """Weighted by examples."""
    n = [len(client.data.train) for client in clients]
    return {name: sum(k * t[name] for k, t in zip(n, tensors, strict=True)) / sum(n) for name in names}


def assert_near(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], names: object = None) -> None:
    for name in expected if names is None else names:
        assert torch.allclose(found[name], expected[name], atol=2e-6, rtol=1e-4), name


def first_models(done: Done, clients: list[Client], label: str = "shared-parameters") -> list[Tensors]:
    """Before the first round, with what the server sends in place."""
    sent = held(done.before, label) if label else {}
    return [{**done.before.clients[client.name].model, **sent} for client in clients]


BODY, HEAD = ("encoder.weight", "encoder.bias"), ("head.weight", "head.bias")


def fedper() -> None:
    clients = pair()
    done = run("fedper", clients)
    trained = [descend(m, own_loss(c), 2) for c, m in zip(clients, first_models(done, clients), strict=True)]
    assert set(held(done.after[0])) == set(BODY)
    assert_near(held(done.after[0]), mean(clients, trained, BODY))
    assert_near(done.after[0].clients["b"].model, trained[1])


def fedrep() -> None:
    """The head takes three steps under a body that stands still, then the body one under the head."""
    clients = pair()
    done = run("fedrep", clients, head_epochs=3, body_epochs=1)
    heads = [descend(m, own_loss(c), 3, "head") for c, m in zip(clients, first_models(done, clients), strict=True)]
    trained = [descend(m, own_loss(c), 1, "encoder") for c, m in zip(clients, heads, strict=True)]
    assert_near(held(done.after[0]), mean(clients, trained, BODY))
    assert_near(done.after[0].clients["a"].model, trained[0])


def fedbabu() -> None:
    """One head for all, that stands still; in the third round everybody trains all of its model."""
    clients = pair()
    done = run("fedbabu", clients, rounds=3, finetune=1)
    first = held(done.before, "body") | held(done.before, "first head")
    trained = [descend(first, own_loss(client), 2, "encoder") for client in clients]
    assert_near(held(done.after[0], "body"), mean(clients, trained, BODY))
    assert_near(done.after[0].clients["b"].model, trained[1])
    tuned = descend({**first, **held(done.after[1], "body")}, own_loss(clients[0]), 2)
    assert_near(done.after[2].clients["a"].model, tuned)
    assert toy.same(done.after[1].server["body"], done.after[2].server["body"])


class Normal(nn.Module):
    """Batch normalisation, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(self.head(self.norm(inputs["point"])))


def fedbn() -> None:
    clients = [small("a", 8), small("b", 12)]
    clients = [Client(c.name, c.data, TWO, lambda spec: Normal(), c.training) for c in clients]
    done = run("fedbn", clients)

    def loss(client: Client) -> Callable[[Tensors], Tensor]:
        x, target = client.data.train.inputs["point"], client.data.train.target
        normal = (x - x.mean(dim=0)) / (x.var(dim=0, correction=0) + 1e-5).sqrt()
        norms = ("norm.weight", "norm.bias", *HEAD)
        return lambda p: entropy((normal * p[norms[0]] + p[norms[1]]) @ p[norms[2]].T + p[norms[3]], target)

    learning = ("norm.weight", "norm.bias", *HEAD)
    models = [{name: m[name] for name in learning} for m in first_models(done, clients)]
    trained = [descend(m, loss(c), 2) for c, m in zip(clients, models, strict=True)]
    assert set(held(done.after[0])) == set(HEAD)
    assert_near(held(done.after[0]), mean(clients, trained, HEAD))
    own = done.after[0].clients["a"].model
    assert_near(own, trained[0])
    # Two batches, each of which counts for a tenth.
    assert torch.allclose(own["norm.running_mean"], 0.19 * clients[0].data.train.inputs["point"].mean(dim=0), atol=1e-6)


def window(whole: Tensors, width: int, first: int) -> tuple[Tensors, Tensor]:
    """The slice of a `Small` that holds `width` features from `first` on, and which ones they are."""
    rows = (torch.arange(width) + first) % len(whole["encoder.bias"])
    parts = {name: whole[name][rows] for name in BODY}
    return {**parts, "head.weight": whole["head.weight"][:, rows], "head.bias": whole["head.bias"]}, rows


def sliced(name: str, windows: tuple[int, int]) -> None:
    """A wide and a narrow client; the narrow encoder's outputs are doubled. Each number is the mean over who holds it."""
    clients = [small("a", 8, width=4), small("b", 12, width=2)]
    done = run(name, clients, rounds=2)

    def narrow_loss(p: Tensors) -> Tensor:
        train = clients[1].data.train
        scaled = {**p, "encoder.weight": 2 * p["encoder.weight"], "encoder.bias": 2 * p["encoder.bias"]}
        return entropy(says(scaled, train.inputs["point"])[0], train.target)

    whole = held(done.before, "slices")
    for number, first in enumerate(windows):
        part, rows = window(whole, 2, first)
        wide = descend({n: whole[n] for n in (*BODY, *HEAD)}, own_loss(clients[0]), 2)
        narrow = descend(part, narrow_loss, 2)
        whole = {name: tensor.clone() for name, tensor in wide.items()}
        for key in BODY:
            whole[key][rows] = (wide[key][rows] + narrow[key]) / 2
        whole["head.weight"][:, rows] = (wide["head.weight"][:, rows] + narrow["head.weight"]) / 2
        whole["head.bias"] = (wide["head.bias"] + narrow["head.bias"]) / 2
        assert_near(held(done.after[number], "slices"), whole)


def heterofl() -> None:
    sliced("heterofl", (0, 0))


def fedrolex() -> None:
    sliced("fedrolex", (0, 1))


def class_means(client: Client, p: Tensors) -> Tensor:
    """The mean feature of each class (classes, features)."""
    features = says(p, client.data.train.inputs["point"])[1]
    return torch.stack([features[client.data.train.target == c].mean(dim=0) for c in (0, 1)])


def fedproto() -> None:
    """In the second round features are pulled to the prototypes by the mean of the squared differences of all numbers."""
    clients = pair()
    done = run("fedproto", clients, rounds=2, weight=3.0, minimum_count=1)
    first = [descend(done.before.clients[c.name].model, own_loss(c), 2) for c in clients]
    means = [class_means(c, p) for c, p in zip(clients, first, strict=True)]
    # Classes are as large as each other: 4 and 4 examples at a, 6 and 6 at b.
    prototypes = (4 * means[0] + 6 * means[1]) / 10
    assert torch.allclose(done.after[0].server["prototypes"]["means"], prototypes, atol=1e-6)

    def pulled(p: Tensors) -> Tensor:
        train = clients[0].data.train
        logits, features = says(p, train.inputs["point"])
        return entropy(logits, train.target) + 3.0 * ((features - prototypes[train.target]) ** 2).sum() / features.numel()

    assert_near(done.after[1].clients["a"].model, descend(first[0], pulled, 2))


def fedtgp() -> None:
    """Three passes over four class means: the softmax of minus the distances, the own class's with a margin on top. With two
    classes the margin is how far apart the mean class means are."""
    clients = pair()
    done = run("fedtgp", clients, epochs=3, minimum_count=1)
    first = [descend(done.before.clients[c.name].model, own_loss(c), 2) for c in clients]
    points = torch.cat([class_means(c, p) for c, p in zip(clients, first, strict=True)])
    classes = torch.tensor([0, 1, 0, 1])
    centres = (points[:2] + points[2:]) / 2
    margin = (centres[0] - centres[1]).square().sum().sqrt()
    # The learning rate of the server is a tenth of LR.
    net = {k.removeprefix("net/"): t.clone() for k, t in done.before.server["trained-prototypes"].items() if k != "counts"}

    def prototypes(p: Tensors) -> Tensor:
        hidden = (p["embedding"] @ p["layers.0.weight"].T + p["layers.0.bias"]).relu()
        return hidden @ p["layers.2.weight"].T + p["layers.2.bias"]

    for _ in range(3):
        p = {name: tensor.requires_grad_() for name, tensor in net.items()}
        distance = (points[:, None] - prototypes(p)[None]).square().sum(dim=2).sqrt()
        logits = -(distance + F.one_hot(classes, 2) * margin)
        found = torch.autograd.grad(entropy(logits, classes), list(p.values()))
        net = {name: (t - 0.01 * g).detach() for (name, t), g in zip(p.items(), found, strict=True)}
    assert_near({k.removeprefix("net/"): t for k, t in done.after[0].server["trained-prototypes"].items()}, net)


def mutual(client: Client, p: Tensors, **weights: float) -> Tensor:
    """The loss of the own model and of the companion on the client's data."""
    train = client.data.train
    (own, features), (other, theirs) = (says(p, train.inputs["point"], prefix) for prefix in ("", "companion."))
    mine, their = entropy(own, train.target), entropy(other, train.target)
    divisor = (mine + their).detach() if "hint" in weights else 1.0
    total = mine + their + (divergence(other, own) + divergence(own, other)) / divisor
    if "hint" in weights:
        total = total + weights["hint"] * ((theirs @ p["projector.weight"].T - features) ** 2).mean() / divisor
    return total


def fml() -> None:
    """Cross-entropy and divergence count the same, at both models."""
    clients = pair()
    done = run("fml", clients)
    trained = [descend(m, lambda p, c=c: mutual(c, p), 2) for c, m in zip(clients, first_models(done, clients), strict=True)]
    names = [f"companion.{name}" for name in (*BODY, *HEAD)]
    assert_near(held(done.after[0]), mean(clients, trained, names))
    assert_near(done.after[0].clients["a"].model, trained[0])


def both(client: Client, p: Tensors) -> Tensor:
    """The losses of the own model and of the second one on the client's data."""
    train = client.data.train
    return torch.stack(
        [entropy(says(p, train.inputs["point"], prefix)[0], train.target) for prefix in ("", "companion.")]
    ).sum()


def predicts_the_mean(client: Client, p: Tensors, own: float) -> None:
    """The model with both in it says the logarithm of the mean probability."""
    test = client.data.test.inputs
    client.module.load_state_dict(p)
    mine, theirs = (says(p, test["point"], prefix)[0].softmax(dim=1) for prefix in ("", "companion."))
    found = client.module.eval()(test).logits.softmax(dim=1)
    assert torch.allclose(found, own * mine + (1 - own) * theirs, atol=1e-6)


def second_model() -> None:
    """Each of the two learns by itself; the second one is averaged, and the prediction is the mean of both probabilities."""
    clients = enrol(named_algorithm("second-model", {"own": 0.25}), pair()).clients
    done = run("second-model", pair(), own=0.25)
    trained = [descend(m, lambda p, c=c: both(c, p), 2) for c, m in zip(clients, first_models(done, clients), strict=True)]
    names = [f"companion.{name}" for name in (*BODY, *HEAD)]
    assert_near(held(done.after[0]), mean(clients, trained, names))
    assert_near(done.after[0].clients["a"].model, trained[0])
    predicts_the_mean(clients[0], done.after[0].clients["a"].model, 0.25)


def pair_alone(name: str, own: float) -> None:
    """Two models of one architecture from two draws, each trained by itself, of which nothing travels."""
    clients = enrol(named_algorithm(name, {}), pair()).clients
    done = run(name, pair())
    first, after = done.before.clients["a"].model, done.after[0].clients["a"].model
    assert not torch.equal(first["head.weight"], first["companion.head.weight"])
    assert_near(after, descend(first, lambda p: both(clients[0], p), 2))
    predicts_the_mean(clients[0], after, own)


def two_alone() -> None:
    pair_alone("two-alone", 0.5)


def alone_again() -> None:
    pair_alone("alone-again", 0.0)


def of_low_rank(matrix: Tensor, energy: float) -> Tensor:
    """The fewest singular values that hold so much energy; the matrix itself where its factors are no smaller."""
    if matrix.ndim < 2:
        return matrix
    u, s, v = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    rank = int((np.cumsum(s**2) / (s**2).sum() < energy).sum()) + 1
    rows, columns = matrix.shape
    # Two whole numbers of four bytes for the shape.
    if rank * (rows + columns) + 2 >= rows * columns:
        return matrix
    return torch.from_numpy(u[:, :rank] @ np.diag(s[:rank]) @ v[:rank]).float()


def fedkd() -> None:
    """The divergences and the hint are divided by the sum of both losses; what the companion learnt travels in low rank."""
    clients = pair(common=12)
    done = run("fedkd", clients, energy=0.6, hint=0.5)
    trained, sent = [], held(done.before)
    for client, model in zip(clients, first_models(done, clients), strict=True):
        trained.append(descend(model, lambda p, c=client: mutual(c, p, hint=0.5), 2))
    changes = [{name: t[name] - sent[name] for name in sent} for t in trained]
    cut = [{name: of_low_rank(change, 0.6) for name, change in each.items()} for each in changes]
    assert not torch.allclose(cut[0]["companion.encoder.weight"], changes[0]["companion.encoder.weight"], atol=1e-4)
    expected = {name: sent[name] + change for name, change in mean(clients, cut, sent).items()}
    assert_near(held(done.after[0]), expected)
    assert_near(done.after[0].clients["b"].model, trained[1])


def fedgen() -> None:
    """Two steps of Adam on eight generated features. Each head counts by its share of the class; classes are even, so that a
    (8 of 20) counts 0.4 and b 0.6."""
    clients = pair()
    done = run("fedgen", clients, epochs=2, minimum_count=1)
    heads = [descend(done.before.clients[c.name].model, own_loss(c), 2) for c in clients]
    net = {k: t.clone().requires_grad_() for k, t in done.before.server["feature-generator"].items() if k != "class counts"}
    optimizer, chance = torch.optim.Adam(list(net.values()), lr=3e-4), generator(0, "server", 1, "generator")
    for _ in range(2):
        classes = torch.multinomial(torch.tensor([10.0, 10.0]), 128, replacement=True, generator=chance)
        noise = torch.randn(128, 32, generator=chance)
        hidden = (torch.cat([torch.eye(2)[classes], noise], dim=1) @ net["layers.0.weight"].T + net["layers.0.bias"]).relu()
        features = hidden @ net["layers.2.weight"].T + net["layers.2.bias"]
        logits = [features @ p["head.weight"].T + p["head.bias"] for p in heads]
        apart = (features[:, None] - features[None]).abs().mean(dim=2) * (noise[:, None] - noise[None]).square().mean(dim=2)
        loss = entropy(0.4 * logits[0] + 0.6 * logits[1], classes) + (-apart.mean()).exp()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert_near(done.after[0].server["feature-generator"], {name: tensor.detach() for name, tensor in net.items()})
    assert done.after[0].server["feature-generator"]["class counts"].tolist() == [10, 10]


def fedgh() -> None:
    """Three steps of gradient descent on four class means: the gradient of cross-entropy is (softmax - one hot) / n."""
    clients = pair()
    done = run("fedgh", clients, epochs=3, lr=0.5, minimum_count=1)
    first = [descend(m, own_loss(c), 2) for c, m in zip(clients, first_models(done, clients, "trained-head"), strict=True)]
    points = torch.cat([class_means(c, p) for c, p in zip(clients, first, strict=True)]).numpy()
    weight, bias = (done.before.server["trained-head"][name].numpy().copy() for name in HEAD)
    for _ in range(3):
        logits = points @ weight.T + bias
        error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(2)[[0, 1, 0, 1]]
        weight, bias = weight - 0.5 * error.T @ points / 4, bias - 0.5 * error.mean(axis=0)
    expected = {name: torch.from_numpy(array).float() for name, array in zip(HEAD, (weight, bias), strict=True)}
    assert_near(done.after[0].server["trained-head"], expected)


def fedmrl() -> None:
    """Both models' features, projected together; the first two numbers are enough for the common model's head."""
    clients = pair()
    done = run("fedmrl", clients, size=2)

    def loss(client: Client, p: Tensors) -> Tensor:
        train = client.data.train
        both = torch.cat([sees(p, train.inputs["point"], prefix) for prefix in ("", "companion.")], dim=1)
        fused = both @ p["projector.weight"].T + p["projector.bias"]
        inner = fused[:, :2] @ p["companion.inner_head.weight"].T + p["companion.inner_head.bias"]
        return entropy(fused @ p["head.weight"].T + p["head.bias"], train.target) + entropy(inner, train.target)

    trained = [descend(m, lambda p, c=c: loss(c, p), 2) for c, m in zip(clients, first_models(done, clients), strict=True)]
    assert_near(held(done.after[0]), mean(clients, trained, held(done.before)))
    assert_near(done.after[0].clients["a"].model, trained[0])
