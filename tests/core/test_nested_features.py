"""Nested features: what is judged, what travels and what is learnt, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import toy
from torch import Tensor, nn
from torch.nn import functional as F
from whole import Federation, enrol, init, run_round

from hetfed.algorithms import fedmrl
from hetfed.client import Client
from hetfed.data import ClientData, Examples, Spec
from hetfed.evaluation import overall, predict
from hetfed.exchanges import NestedFeatures
from hetfed.model import Output
from hetfed.payload import Upload
from hetfed.tasks import Classification, MultiTask, Task


def common(spec: Spec) -> nn.Module:
    return toy.Net(spec["inputs"], 3)


def with_common(name: str, width: int = 4) -> Client:
    return replace(toy.client(name, width=width), common_fn=common)


def test_all_test_data_together_have_a_metric() -> None:
    """The inner prediction is no further head of the task."""
    clients = enrol(fedmrl(), [with_common("a"), with_common("b", 6)]).clients
    outputs = [predict(client.module, client.data.test) for client in clients]
    assert all("companion" in output.further for output in outputs)
    test = replace(clients[0].data.test, target=torch.cat([client.data.test.target for client in clients]))
    expected = clients[0].task.metrics(Output(torch.cat([output.logits for output in outputs])), test)
    found = overall(outputs, clients)
    assert found is not None
    assert found == expected.values["AUROC"]


def test_nothing_travels_of_a_head_that_answers_nothing() -> None:
    enrolment = enrol(fedmrl(), [with_common("a"), with_common("b", 6)])
    federation = Federation.of(enrolment.clients, enrolment.composition, 2, 0)
    state, sent = init(federation), list[str]()

    def on_upload(upload: Upload) -> None:
        assert upload.travelled is not None
        sent.extend(upload.travelled.tensors)

    for _ in range(2):
        sent += [key.rpartition("/")[2] for key in state.server["shared-parameters"]]
        state = run_round(federation, state, on_upload=on_upload)
    assert "companion.inner_head.weight" in sent
    assert "companion.encoder.0.weight" in sent
    assert not [name for name in sent if name.startswith("companion.head")]
    assert not [key for client in state.clients.values() for key in client.model if key.startswith("companion.head")]


class Levels(toy.Net):
    """Tells something further of each point."""

    def __init__(self) -> None:
        super().__init__(2, 4)
        self.level = nn.Linear(3, 3)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        output = super().forward(inputs)
        assert output.features is not None
        return Output(output.logits, output.features, {"level": self.level(output.features)})


TWO = Classification(("low", "high"))
FURTHER = MultiTask(TWO, {"level": (Classification(("left", "middle", "right")), 0.7)})


def levelled(name: str, task: Task = FURTHER) -> Client:
    """A client with a further head, whose classes are those of how far right a point is."""

    def further(examples: Examples) -> Examples:
        level = examples.inputs["point"][:, 0].mul(0.5).round().long().clamp(0, 2)
        return replace(examples, further={"level": level})

    data = toy.client(name).data
    levels = ClientData(further(data.train), further(data.validation), further(data.test), data.spec)
    return replace(with_common(name), data=levels, task=task, model_fn=lambda spec: Levels())


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_further_losses_count_once(weight: float) -> None:
    """What the exchange adds is the loss of the inner prediction of the main question alone."""
    (client, _) = enrol(fedmrl(), [levelled("a"), levelled("b")]).clients
    batch = client.data.train.batch(torch.arange(12))
    output = client.module.eval()(batch.inputs)
    assert set(output.further) == {"level", "companion"}
    context = toy.client_context(client)
    added = NestedFeatures(weight=weight).loss(context, context.tensors, batch, output)
    assert added is not None
    assert torch.allclose(added, weight * F.cross_entropy(output.further["companion"], batch.target), atol=1e-6)
    own, level = client.task.loss(output, batch), F.cross_entropy(output.further["level"], batch.further["level"])
    assert own is not None
    assert torch.allclose(own, F.cross_entropy(output.logits, batch.target) + 0.7 * level, atol=1e-6)


def test_where_the_main_question_has_no_answer_nothing_is_added() -> None:
    (client, _) = enrol(fedmrl(), [levelled("a"), levelled("b")]).clients
    batch = client.data.train.batch(torch.arange(12))
    unknown = replace(batch, target=torch.full_like(batch.target, -1))
    output = client.module.eval()(batch.inputs)
    context = toy.client_context(client)
    added = NestedFeatures().loss(context, context.tensors, unknown, output)
    assert added is not None
    assert float(added.detach()) == 0
    given = torch.autograd.grad(added, [output.further["companion"]], retain_graph=True)
    assert not given[0].any()
    level = F.cross_entropy(output.further["level"], batch.further["level"])
    assert torch.allclose(client.task.loss(output, unknown), 0.7 * level, atol=1e-6)


def test_rounds_with_a_further_head_go_well() -> None:
    state, uploads = toy.federate([levelled("a"), levelled("b")], fedmrl(), 2)
    assert not [upload for upload in uploads if upload.refused]
    assert all(tensor.isfinite().all() for client in state.clients.values() for tensor in client.model.values())
