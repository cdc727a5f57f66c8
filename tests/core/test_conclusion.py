"""The end of a run: the last broadcast, which model counts, training by steps, all clients' test data together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toy
from whole import Federation, State, enrol, finalize, init, run_round

from hetfed.algorithms import alone, fedavg, fedmd, fedproto
from hetfed.client import Client
from hetfed.composition import Composition
from hetfed.errors import PlanError
from hetfed.evaluation import evaluate, overall, predict
from hetfed.participation import Participation
from hetfed.plan import read_plan
from hetfed.pooled import train_pooled
from hetfed.selection import Select
from hetfed.tasks import Classification
from hetfed.training import Phase, Training


def federation(composition: Composition, clients: list[Client] | None = None, select: Select = "validation") -> Federation:
    enrolment = enrol(composition, clients or [toy.client("a"), toy.client("b", n=40)])
    return Federation.of(enrolment.clients, enrolment.composition, 2, 0, select=select)


def through(found: Federation) -> tuple[State, State]:
    """The state after the last round, and the final one."""
    state = init(found)
    for _ in range(found.rounds):
        state = run_round(found, state)
    return state, finalize(found, state)


def test_everybody_ends_with_the_last_mean() -> None:
    state, ended = through(federation(fedavg(), select="last"))
    mean = {key.partition("/")[2]: tensor for key, tensor in state.server["shared-parameters"].items()}
    shared = [
        {key: tensor for key, tensor in model.items() if key in mean}
        for model in (ended.clients["a"].model, ended.clients["b"].best, state.clients["a"].model)
    ]
    assert [toy.same(model, mean) for model in shared] == [True, True, False]
    assert [(row.round, row.client, row.bytes_up) for row in ended.rows[-2:]] == [(3, "a", 0), (3, "b", 0)]
    assert ended.rows[-1].bytes_down == ended.rows[0].bytes_down


def test_it_is_kept_only_if_it_does_better() -> None:
    found = federation(fedavg())
    _, ended = through(found)
    for client in found.clients:
        client.module.load_state_dict(ended.clients[client.name].best)
        kept = evaluate(client.module, client.task, client.data.validation).score
        client.module.load_state_dict(ended.clients[client.name].model)
        assert kept >= evaluate(client.module, client.task, client.data.validation).score
        assert kept == ended.clients[client.name].score


@pytest.mark.parametrize("composition", [alone(), fedproto()])
def test_what_is_no_part_of_a_model_is_not_sent_in_the_end(composition: Composition) -> None:
    state, ended = through(federation(composition))
    assert ended.rows == state.rows and ended.clients == state.clients


def test_a_last_consensus_is_learnt() -> None:
    public = toy.examples(30, "public")
    clients = [replace(toy.client(name), public=public) for name in "ab"]
    state, ended = through(federation(fedmd(), clients))
    assert len(ended.rows) == len(state.rows) + 2
    assert not toy.same(ended.clients["a"].model, state.clients["a"].model)


def test_finalizing_twice_is_finalizing_once() -> None:
    found = federation(fedavg())
    state, ended = through(found)
    again = finalize(found, state)
    assert toy.same(again.clients["b"].model, ended.clients["b"].model)
    assert [replace(row, seconds=0) for row in again.rows] == [replace(row, seconds=0) for row in ended.rows]
    assert len(state.rows) == 4


def test_the_last_model_is_kept_in_every_arm() -> None:
    found = federation(alone(), select="last")
    state, _ = through(found)
    for name in "ab":
        assert toy.same(state.clients[name].best, state.clients[name].model) and state.clients[name].best_round == 2
    assert {outcome.round for outcome in train_pooled(found.server, found.clients, found.clients).values()} == {2}


def test_a_round_has_so_many_steps() -> None:
    """24 examples in batches of 8 are three batches an epoch."""
    steps, epochs = (toy.client("a", training=Training(batch_size=8, **how)) for how in ({"steps": 6}, {"epochs": 2}))
    models = [through(federation(alone(), [client]))[0].clients["a"].model for client in (steps, epochs)]
    assert toy.same(*models)
    few = toy.client("a", training=Training(batch_size=8, steps=5))
    assert not toy.same(through(federation(alone(), [few]))[0].clients["a"].model, models[0])


def test_steps_take_their_time() -> None:
    client = toy.client("a", training=Training(batch_size=8, steps=5))
    found = federation(alone(), [client])
    assert found.duration(client, 1) == pytest.approx(0.04)
    assert Phase(epochs=2).examples(client.training, 24) == 48
    assert Phase().examples(Training(batch_size=50, steps=3), 24) == 72


def test_pooled_training_has_as_many_steps() -> None:
    """Sixty-four examples of both in batches of 8 are eight batches; seven steps of four rounds stop in between."""
    clients = [toy.client(name, n=n, training=Training(batch_size=8, steps=8)) for name, n in (("a", 24), ("b", 40))]
    by_epoch = [replace(client, training=Training(batch_size=8)) for client in clients]
    fewer = [replace(client, training=Training(batch_size=8, steps=7)) for client in clients]
    outcomes = [
        train_pooled(Federation.of(these, alone(), 2, 0, select="last").server, these, these)["a"].validation_loss
        for these in (clients, by_epoch, fewer)
    ]
    assert outcomes[0] == outcomes[1] != outcomes[2]


def test_all_test_data_are_judged_together() -> None:
    clients = [toy.client("a"), toy.client("b")]
    outputs = [predict(client.module, client.data.test) for client in clients]
    one = replace(clients[0].data.test, target=torch.cat([client.data.test.target for client in clients]))
    expected = clients[0].task.metrics(replace(outputs[0], logits=torch.cat([o.logits for o in outputs])), one)
    assert overall(outputs, clients) == expected.values["AUROC"]
    other = replace(clients[1], task=Classification(("left", "right")))
    assert overall(outputs, [clients[0], other]) is None


VARIANTS = toy.SAMPLE.replace(
    "[[exchange]]", "[variant.fedprox]\nsettings = { mu = 0.5 }\ntraining = { lr = 0.5 }\n[[exchange]]", 1
)


def test_an_algorithm_is_compared_as_its_variant_says() -> None:
    plan = read_plan(VARIANTS, "toy")
    tuned = plan.under("fedprox")
    assert tuned.composition().steps[0].exchange.proximal == 0.5
    assert {client.training.lr for client in tuned.client} == {0.5}
    assert next(client for client in tuned.client if client.name == "c").training.optimizer == "sgd"
    assert plan.under("fedavg").client == plan.client
    assert read_plan(tuned.resolved(), "again").digest() == tuned.digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("variant.fedprox", "variant.fedpox"), "unknown algorithm.*fedpox"),
        (("mu = 0.5", "nu = 0.5"), "fedprox.*nu.*unknown key"),
        (("lr = 0.5", "lr = -1"), r"variant\.fedprox\.training\.lr"),
    ],
)
def test_a_variant_at_fault_is_refused(change: tuple[str, str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_plan(VARIANTS.replace(*change), "toy")


def test_who_was_never_asked_gets_the_last_mean_too() -> None:
    clients = [toy.client(name) for name in "abcd"]
    found = Federation.of(clients, fedavg(), 1, 0, participation=Participation(fraction=0.25))
    state, ended = through(found)
    assert sum(not client.best for client in state.clients.values()) == 3
    assert all(client.best for client in ended.clients.values())
