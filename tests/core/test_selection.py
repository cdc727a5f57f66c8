"""Which of its models counts for a client."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import toy
from whole import Federation, finalize, init, run_round

from hetfed.algorithms import fedavg
from hetfed.client import ClientState, Tensors
from hetfed.errors import PlanError
from hetfed.evaluation import DIVERGED, Evaluation
from hetfed.federation import Row
from hetfed.plan import FederationTable, read_plan, validate
from hetfed.run.enrolled import enrolled
from hetfed.selection import MeanOf, Select, chosen_by_all, consider, mean_of_weights, predict_mean, selected, selected_round
from hetfed.tasks import Classification, Metrics

TASK = toy.client("a").task
assert isinstance(TASK, Classification)
MEANS = [MeanOf(mean="weights", last=2), MeanOf(mean="predictions", last=2)]


def found(value: float | None, loss: float = 1.0) -> Evaluation:
    score = (0.0 if value is None else value, -loss)
    return Evaluation(Metrics({"AUROC": value}), loss, value, score if math.isfinite(loss) else DIVERGED)


def after(select: Select, evaluations: list[Evaluation]) -> ClientState:
    """The state of a client whose model of round r is r."""
    state = ClientState({})
    for number, evaluation in enumerate(evaluations, start=1):
        state = consider(state, lambda n=number: model(n), evaluation, select=select, seen=number, of=number)  # type: ignore[misc]
    return state


def model(number: int) -> Tensors:
    return {"w": torch.tensor([float(number)])}


def counting(select: Select, evaluations: list[Evaluation]) -> list[float]:
    return [float(tensors["w"]) for tensors in selected(after(select, evaluations), select)]


def test_the_best_on_validation_data_counts_of_equals_the_earliest() -> None:
    assert counting("validation", [found(0.5), found(0.9), found(0.9), found(0.7)]) == [2]
    assert counting("validation", [found(0.9, 2.0), found(0.9, 1.0)]) == [2]  # by the loss where the metric is equal


def test_where_the_metric_is_undefined_the_last_round_counts_whatever_the_loss() -> None:
    assert counting("validation", [found(None, 0.1), found(None, 5.0), found(None, 9.0)]) == [3]


def test_a_model_that_diverged_counts_only_where_there_is_no_other() -> None:
    wild = found(None, math.inf)
    for select in ("validation", "last", *MEANS):
        assert counting(select, [wild, found(0.1), wild])[-1] == 2
        assert counting(select, [wild, wild]) == [1]


def test_a_mean_is_taken_over_the_last_rounds() -> None:
    figures = [found(0.9), found(0.1), found(0.2), found(0.3)]
    assert [counting(select, figures) for select in MEANS] == [[3.5], [3, 4]]
    assert [counting(select, figures[:1]) for select in MEANS] == [[1], [1]]
    # Told as the last of its rounds, and not as that of the best single model.
    assert [selected_round(after(select, figures), select) for select in (*MEANS, "validation", "last")] == [4, 4, 1, 4]


def test_what_arrives_completes_the_model_of_the_round_before() -> None:
    state = after(MEANS[1], [found(0.1), found(0.2)])
    state = consider(state, lambda: model(20), found(0.3), select=MEANS[1], seen=3, of=2)
    assert [float(tensors["w"]) for tensors in selected(state, MEANS[1])] == [1, 20]


def test_counts_have_no_mean() -> None:
    models = [{"seen": torch.tensor(n), "w": torch.tensor([n / 2])} for n in (3, 5)]
    assert mean_of_weights(models) == {"seen": torch.tensor(5), "w": torch.tensor([2.0])}


def test_predictions_are_averaged_as_probabilities() -> None:
    client = toy.client("a")
    states = [client.new_model(seed).state_dict() for seed in (1, 2)]
    task, test = client.task, client.data.test
    each = [predict_mean(client.module, [state], task, test).logits.softmax(dim=1) for state in states]
    both = predict_mean(client.module, states, task, test).logits.softmax(dim=1)
    assert torch.allclose(both, (each[0] + each[1]) / 2, atol=1e-6)


def row(number: int, client: str, received: float | None, validation: float | None) -> Row:
    return Row(number, client, 0.0, received, validation, 0.0, 0.0, 0, 0, 0)


def test_everybodys_figures_choose_the_round_of_what_was_merged() -> None:
    """What round 1 has merged shows when it arrives in round 2; a figure weighs as many examples as it stands for."""
    clients = [toy.client("a"), toy.client("b")]
    side = Federation.of(clients, fedavg(), 3, 0, select="everybody").server
    sizes = {"a": 20, "b": 10}
    profiles = tuple(replace(profile, validation_examples=sizes[profile.name]) for profile in side.profiles)
    federation = replace(side, profiles=profiles)
    rows = [
        row(1, "a", None, 0.9), row(1, "b", None, 0.9),  # before anything was merged
        row(2, "a", 0.5, 0.1), row(2, "b", 1.0, 0.1),
        row(3, "a", 0.7, 0.1), row(3, "b", 0.7, 0.1),
        row(4, "a", 0.6, 0.6), row(4, "b", 0.6, 0.6),
    ]  # fmt: skip
    assert [federation.best_round(rows, before=n) for n in (1, 2, 3, 4, 5)] == [0, 1, 2, 2, 2]
    # Who was absent when the merge was sent still has the model that it had trained.
    assert federation.best_round([r for r in rows if (r.round, r.client) != (3, "b")], before=3) == 1


@pytest.mark.parametrize("rounds", [3, 6])
def test_each_client_holds_the_model_of_the_round_that_all_have_chosen(rounds: int) -> None:
    clients = [toy.client(name, n=n) for name, n in (("a", 30), ("b", 20))]
    federation = Federation.of(clients, fedavg(), rounds, 1, select="everybody")
    state, merged = init(federation), {}
    for number in range(1, rounds + 1):
        state = run_round(federation, state)
        merged[number] = {name.rpartition("/")[2]: t for name, t in state.server["shared-parameters"].items()}
    ended = finalize(federation, state)
    chosen = federation.server.best_round(ended.rows, before=rounds + 1)
    assert 1 <= chosen <= rounds
    for client in ended.clients.values():
        (held,) = selected(chosen_by_all(client, chosen), "everybody")
        names = [name for name in held if "num_batches" not in name]
        assert all(torch.equal(held[name], merged[chosen][name]) for name in names)


def test_figures_of_different_metrics_choose_no_round() -> None:
    clients = [toy.client("a"), toy.client("b")]
    text = '[federation]\nselect = "everybody"\n[[client]]\nname = "a"\n[[client]]\nname = "b"\n'
    plan = read_plan(text, "x")
    enrolled(plan, clients, fedavg())
    other = replace(clients[1], task=replace(TASK, metric="accuracy"))
    with pytest.raises(PlanError, match=r"federation\.select: the clients are judged by different metrics: AUROC, accuracy"):
        enrolled(plan, [clients[0], other], fedavg())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("best", r"^federation\.select: input should be 'validation', 'everybody' or 'last' \(value: 'best'\)\."),
        (3, r"^federation\.select: input should be 'validation'"),
        ({"mean": "weights"}, r"^federation\.select\.last: field required"),
        ({"mean": "median", "last": 2}, r"^federation\.select\.mean: input should be 'predictions' or 'weights'"),
        ({"mean": "weights", "last": 0}, r"^federation\.select\.last: input should be greater than 0"),
        ({"mean": "weights", "lasst": 2}, r"^federation\.select\.lasst: unknown key .*Did you mean 'last'\?"),
    ],
)
def test_a_rule_that_is_none_is_refused_by_its_key(wrong: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        validate(FederationTable, {"select": wrong}, key="federation")
