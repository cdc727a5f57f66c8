"""A client's models side by side on its test data: what each gains over training alone, and how simple methods do.

All of it is computed where the client's data are, from the outputs of its models; figures are all that leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hetfed.chance import FEWEST
from hetfed.client import Client
from hetfed.data import Examples
from hetfed.evaluation import Gain, Outcome, gain_of, interval_of, judge
from hetfed.model import Output
from hetfed.results.arms import ALONE, FEDERATED
from hetfed.tasks import MultiTask

FEW_CASES = 10
"""With fewer patients of the rarer class, or fewer events, validation data are too few to choose a model by: at an AUROC of
0.85, ten beside twenty others have a standard error of 0.08 (Hanley and McNeil 1982), more than models differ by."""


@dataclass(frozen=True)
class Counts:
    """How much a set of examples can show.

    Args:
        owners: how many owners (patients, days) with a known target there are.
        cases: how many of them have an example of a class, or saw the event, by name; empty where numbers are predicted.
    """

    owners: int
    cases: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(client: Client, examples: Examples) -> Counts:
        """The counts of some examples of a client."""
        cases = client.task.cases(examples)
        return Counts(
            _owners(client.task.answered(examples), examples),
            {name: _owners(mask, examples) for name, mask in cases.items()},
        )

    def too_few(self, owned_by: str) -> str:
        """Why they are too few to choose a model by; empty where they are enough.

        >>> Counts(24, {"benign": 21, "malignant": 3}).too_few("patients")
        "3 patients of 'malignant', fewer than 10"
        """
        name = min(self.cases, key=lambda case: self.cases[case], default=None)
        if name is not None and self.cases[name] < FEW_CASES:
            return f"{self.cases[name]} {owned_by} of {name!r}, fewer than {FEW_CASES}"
        return f"{self.owners} {owned_by}, fewer than {FEWEST}" if self.owners < FEWEST else ""


@dataclass(frozen=True)
class Compared:
    """A client's models and simple methods on its test data.

    Args:
        gains: of each arm over training alone.
        references: how simple methods do, by name.
        ahead: what the federated model gains over each of them.
    """

    gains: Mapping[str, Gain] = field(default_factory=dict)
    references: Mapping[str, Outcome] = field(default_factory=dict)
    ahead: Mapping[str, Gain] = field(default_factory=dict)


def compare(client: Client, outputs: Mapping[str, Output]) -> Compared:
    """Hold a client's models against each other and against its simple methods, on the same resamples of its test data.

    Args:
        client: whose data and task.
        outputs: what the selected model of each arm says of its test data.
    """
    test = client.data.test
    references = client.references(test)
    gains, ahead = dict[str, Gain](), dict[str, Gain]()
    if ALONE in outputs:
        gains = {arm: gain_of(said, outputs[ALONE], client.task, test) for arm, said in outputs.items() if arm != ALONE}
    if FEDERATED in outputs:
        ahead = {name: gain_of(outputs[FEDERATED], said, client.task, test) for name, said in references.items()}
    return Compared(gains, {name: _judged(said, client) for name, said in references.items()}, ahead)


def _judged(output: Output, client: Client) -> Outcome:
    """How a simple method does; it has no validation figures, since nothing of it is selected."""
    task, test = client.task, client.data.test
    # Most answer the main question alone.
    task = task.main if isinstance(task, MultiTask) and not output.further else task
    return Outcome.of(judge(output, task, test), 0, chance=interval_of(output, task, test))


def _owners(mask: Tensor, examples: Examples) -> int:
    return len({examples.whose[i] for i in mask.nonzero()[:, 0].tolist()})
