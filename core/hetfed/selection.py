"""Which of the models that a client has had in a run counts.

A model that nobody has trained is no candidate. Where validation data say nothing, because the metric is undefined on them, the
last round counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Discriminator, PositiveInt, Tag
from torch import Tensor, nn

from hetfed.client import ClientState, Tensors
from hetfed.data import Examples
from hetfed.evaluation import DIVERGED, Evaluation, predict
from hetfed.model import Output
from hetfed.plan_schema import Table
from hetfed.tasks import Task


class MeanOf(Table):
    """The mean over the last rounds: of what their models predict, or of their weights (as Izmailov et al. 2018 average them).

    A model of a round is the one that its client trained, with what the others' uploads of that round have changed in it.

    Args:
        mean: "predictions" keeps a model per round, and averages probabilities; "weights" keeps a single one.
        last: so many rounds, of those that the client took part in.

    >>> MeanOf(mean="weights", last=4).last
    4
    """

    mean: Literal["predictions", "weights"]
    last: PositiveInt


def _form(value: object) -> str:
    """Whether a rule is given as a word or as a table."""
    return "<table>" if isinstance(value, dict | MeanOf) else "<word>"


Word = Literal["validation", "everybody", "last"]
Select = Annotated[Annotated[Word, Tag("<word>")] | Annotated[MeanOf, Tag("<table>")], Discriminator(_form)]
"""Which model of a client counts: the one that does best on its own validation data, that of the round which does best on the
validation data of all clients, the last one, or a mean over the last rounds."""


def held_rounds(select: Select) -> int:
    """How many rounds' models a client holds beside the one that it goes on with."""
    # Everybody's figures on the model of a round are known a round later, when the client holds that of the next one too.
    return select.last if isinstance(select, MeanOf) else 2 if select == "everybody" else 0


def consider(
    state: ClientState, model: Callable[[], Tensors], evaluation: Evaluation, *, select: Select, seen: int, of: int
) -> ClientState:
    """The state once a model has come up as a candidate; of models that do equally well, the earliest counts.

    Args:
        state: of the client.
        model: gives the candidate's tensors, which are copied only where they are held.
        evaluation: on the client's validation data.
        select: the rule.
        seen: the round in which it came up.
        of: the round that it is the model of: what arrives at the start of a round completes the model of the one before.
    """
    diverged, first = evaluation.score == DIVERGED, state.score is None
    # Where the metric is undefined, the loss alone would say which model is surest of the one class that there is.
    latest = select == "last" or evaluation.value is None
    better = not diverged if latest else state.score is not None and evaluation.score > state.score
    # By everybody's figures it is not for the client to say, unless it has nothing yet.
    if first or (better and select != "everybody"):
        state = replace(state, best=model(), score=evaluation.score, best_round=seen)
    rounds = held_rounds(select)
    if rounds and not diverged:
        newest = sorted({**state.recent, of: model()}.items())[-rounds:]
        state = replace(state, recent=dict(newest))
    return state


def chosen_by_all(state: ClientState, chosen: int) -> ClientState:
    """The state once everybody's figures have named a round: with the model of it, or the latest before it that is held."""
    held = [number for number in state.recent if number <= chosen]
    return replace(state, best=state.recent[max(held)], best_round=max(held)) if held else state


def selected(state: ClientState, select: Select) -> list[Tensors]:
    """The models whose mean prediction counts: one, but for `mean = "predictions"`; none before the first round."""
    if not isinstance(select, MeanOf) or not state.recent:
        return [state.best] if state.best else []
    recent = [model for _, model in sorted(state.recent.items())]
    return recent if select.mean == "predictions" else [mean_of_weights(recent)]


def selected_round(state: ClientState, select: Select) -> int:
    """The round that the selected model is from; of a mean the last one, 0 before the first round."""
    return max(state.recent) if isinstance(select, MeanOf) and state.recent else state.best_round


def mean_of_weights(models: Sequence[Tensors]) -> Tensors:
    """The mean of models tensor by tensor; of whole numbers, such as counts of batches, the last.

    >>> mean_of_weights([{"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}])
    {'w': tensor([2.])}
    """

    def mean(name: str) -> Tensor:
        """Of one tensor."""
        tensors = [model[name] for model in models]
        return torch.stack(tensors).mean(dim=0) if tensors[0].is_floating_point() else tensors[-1]

    return {name: mean(name) for name in models[-1]}


def predict_mean(module: nn.Module, models: Sequence[Mapping[str, Tensor]], task: Task, examples: Examples) -> Output:
    """The mean of what several states of one module predict for all `examples`."""
    outputs = []
    for model in models:
        module.load_state_dict(model)
        outputs.append(predict(module, examples))
    # The only one as it is: a logarithm of a softmax would change its last bits.
    return outputs[0] if len(outputs) == 1 else task.average(outputs)
