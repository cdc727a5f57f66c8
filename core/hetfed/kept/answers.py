"""A kept model's answers, as a table without targets."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hetfed.data import Examples
from hetfed.model import Output
from hetfed.tasks import MultiTask, Survival, Task


def answers(task: Task, output: Output, blank: Examples, names: Sequence[str]) -> pd.DataFrame:
    """The task's own table of predictions for `blank` examples, without the targets that these do not have.

    Args:
        task: what the model answers.
        output: of the model, for n examples.
        blank: n examples whose ids name the rows.
        names: of the sensors, where the task is a forecast.

    Returns:
        Columns: `id`; `probability:<class>` (classification); `prediction:<output>` in the unit of the target (regression);
        `horizon` in minutes and `forecast:<sensor>` in the city's unit (forecasting); or `risk`, its logarithm (survival).

    >>> import torch
    >>> from hetfed.tasks import Regression
    >>> output = Output(torch.tensor([[1.0], [-1.0]]))
    >>> blank = Examples({}, torch.zeros(2, 1), ["a", "b"])
    >>> answers(Regression(mean=60.0, scale=12.0), output, blank, ()).values.tolist()
    [['a', 72.0], ['b', 48.0]]
    """
    main = task.main if isinstance(task, MultiTask) else task
    targets = {main.event, main.unit} if isinstance(main, Survival) else set()
    table = main.table(output, blank)
    kept = [name for name in table.columns if name not in targets and name.partition(":")[0] != "target"]
    # A task knows sensors by number; only the client knows their names.
    named = {f"forecast:{index}": f"forecast:{name}" for index, name in enumerate(names)}
    return table[kept].rename(columns=named)
