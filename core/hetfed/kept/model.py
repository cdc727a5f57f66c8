"""A kept model: it predicts by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from hetfed.data import Examples
from hetfed.errors import DataError, RunFolderError
from hetfed.evaluation import UNREADABLE, predict
from hetfed.kept.answers import answers
from hetfed.kept.description import TENSORS
from hetfed.kept.inputs import TENSOR_FORM, check_modalities
from hetfed.kept.rebuild import Part
from hetfed.kept.registry import InputForm, input_form
from hetfed.model import Output
from hetfed.tasks import Task


@dataclass(frozen=True, eq=False)
class KeptModel:
    """The model that a client keeps, with all that it takes to predict: nobody's data, and no other file of the run.

    Args:
        about: model.json: the client, the arm, its validation metrics, the versions.
        module: the model, in evaluation mode.
        part: the sizes that it is built from.
        task: what it answers; None where its task is of a class that model.json cannot describe.
        form: the name of what turns raw inputs into the model's.
        preprocessing: that form's settings.
        statistics: that form's tensors: means, deviations.
        names: of the sensors, where it forecasts.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import hetfed as hf
    >>> data = hf.ClientData.of({"x": torch.zeros(10, 4)}, [0, 1] * 5)
    >>> def build(spec): return nn.Sequential(nn.Linear(4, 2))
    >>> client = hf.Client("a", data, hf.Classification(("ill", "well")), build)
    >>> from hetfed.kept.save import save_model
    >>> with tempfile.TemporaryDirectory() as home:
    ...     save_model(Path(home), client, client.module.state_dict())
    ...     table = hf.load_model(home, model_fn=build).predict({"x": torch.zeros(3, 4)})
    >>> list(table.columns), len(table)
    (['id', 'probability:ill', 'probability:well'], 3)
    """

    about: Mapping[str, Any]
    module: nn.Module
    part: Part
    task: Task | None
    form: str
    preprocessing: Mapping[str, Any]
    statistics: Mapping[str, Tensor]
    names: tuple[str, ...] = ()

    @property
    def client(self) -> str:
        """The name of the client that keeps it."""
        return str(self.about["client"])

    @property
    def inputs(self) -> InputForm:
        """The form that turns raw inputs into the model's."""
        return TENSOR_FORM if self.form == TENSORS else input_form(self.form)

    def predict(self, inputs: Mapping[str, Any]) -> pd.DataFrame:
        """Predictions for raw inputs (n, ...) by modality, in the form of the data set, before any scaling.

        Args:
            inputs: a table is a DataFrame whose columns are put in order, or an array in the order of training; `inputs["id"]`
                may name the examples.

        Returns:
            A row per example, or per example and horizon: `probability:<class>`, `forecast:<sensor>` in the city's unit,
            `prediction:<output>` or `risk`.

        Raises:
            DataError: a modality, a column or a shape is not what the model was trained on.
            RunFolderError: the task is not described.
        """
        if self.task is None:
            remedy = "Call KeptModel.output for logits, or give the task: load_model(folder, task=...)."
            raise RunFolderError("the task is of a class that a folder cannot describe", key="task", remedy=remedy)
        ready = self.inputs.prepare(self.preprocessing, self.statistics, inputs)
        output, blank = self._output(ready.inputs, list(ready.ids))
        return answers(self.task, output, blank, self.names)

    def output(self, tensors: Mapping[str, Tensor]) -> Output:
        """Logits, features and further heads for preprocessed tensors (n, ...) by modality, as the model reads them.

        Raises:
            DataError: a modality, a shape or a dtype is not what the model was trained on.
        """
        return self._output(tensors, [])[0]

    def _output(self, tensors: Mapping[str, Tensor], ids: list[str]) -> tuple[Output, Examples]:
        count = self._count(tensors)
        blank = self.part.examples(count, ids)
        try:
            return predict(self.module, Examples(tensors, blank.target, blank.ids)), blank
        except UNREADABLE as error:
            remedy = "Compare them with `inputs` in model.json."
            raise DataError(f"the model cannot read these inputs: {error}", remedy=remedy) from error

    def _count(self, tensors: Mapping[str, Tensor]) -> int:
        """How many examples there are, when every tensor is as the model reads it."""
        check_modalities(tensors, list(self.part.inputs), ())
        counts = {}
        for name, expected in self.part.inputs.items():
            # Before the model sees them: some models answer inputs of a wrong shape, by broadcasting, without an error.
            found = tensors[name]
            if tuple(found.shape[1:]) != expected.shape or found.dtype != getattr(torch, expected.dtype):
                wanted = f"(n, {', '.join(map(str, expected.shape))}) {expected.dtype}"
                shown = f"{tuple(found.shape)} {str(found.dtype).removeprefix('torch.')}"
                raise DataError("wrong shape or dtype", key=name, value=shown, remedy=f"The model reads {wanted}.")
            counts[name] = len(found)
        if len(set(counts.values())) != 1 or 0 in counts.values():
            remedy = "Give every modality of every example."
            raise DataError("there are not as many examples of each modality", key="n", value=counts, remedy=remedy)
        return next(iter(counts.values()))
