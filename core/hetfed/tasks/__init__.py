"""Tasks: the loss, the distillation loss, the predictions and the metrics of one kind of question."""

from hetfed.tasks.base import Metrics, Task
from hetfed.tasks.classification import Classification
from hetfed.tasks.forecasting import Forecasting
from hetfed.tasks.further import WithFurther
from hetfed.tasks.regression import Regression

__all__ = ["Classification", "Forecasting", "Metrics", "Regression", "Task", "WithFurther"]
