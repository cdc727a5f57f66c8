"""Tasks: the loss, the distillation loss, the predictions and the metrics of one kind of question."""

from hetfed.compat import prepare_torchvision

prepare_torchvision()  # a script may import torchvision after hetfed

from hetfed.tasks.base import Metrics, Task, loss_if_any  # noqa: E402
from hetfed.tasks.classification import Classification  # noqa: E402
from hetfed.tasks.describe import in_unit, register_task, scaled, task_from_json, task_to_json  # noqa: E402
from hetfed.tasks.forecasting import Forecasting  # noqa: E402
from hetfed.tasks.further import MultiTask  # noqa: E402
from hetfed.tasks.regression import Regression  # noqa: E402
from hetfed.tasks.survival import Survival  # noqa: E402

__all__ = [
    "Classification",
    "Forecasting",
    "Metrics",
    "MultiTask",
    "Regression",
    "Survival",
    "Task",
    "in_unit",
    "loss_if_any",
    "register_task",
    "scaled",
    "task_from_json",
    "task_to_json",
]
