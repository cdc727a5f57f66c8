"""What a plan may say of a city: its data and its model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from hetfed.plan_schema import Share, Size, SplitTable, Table
from hetfed_traffic.calendar import Calendar
from hetfed_traffic.encoders import ENCODERS


class CityData(SplitTable):
    """The `data` table of a city.

    `predict` is "readings" (all steps up to the farthest of `horizons`, in minutes) or "congestion" (congested or not at the
    next step, sensor by sensor). A speed is congested below `congested_speed` times the free speed of its sensor (the 95th
    percentile of the training data), a travel time at the same share of the free speed; a count or an occupancy is above the
    `congested_volume` quantile of the training data.

    `target` is the channel that is forecast, or "sum" of several counts; without it, what the data set says.
    """

    dataset: str
    city: str | None = None
    history: Size = 12
    horizons: tuple[Size, ...] = Field(default=(15, 30, 60), min_length=1)
    target: str | None = None
    predict: Literal["readings", "congestion"] = "readings"
    train: Share = 0.7
    validation: Share = 0.1
    congested_speed: Share = 0.6
    congested_volume: Share = 0.85
    examples: PositiveInt | None = None


class CityModelTable(Table):
    """The `model` table of a city.

    `calendar` is what the model may know of the day: "weekend" or not, or which "weekday" (which takes several weeks to learn).
    With `management` > 0, the weight of its loss, a head for the congestion level is trained beside the forecast.
    """

    encoder: Annotated[str, AfterValidator(ENCODERS.known)] = "mlp"
    features: Size = 96
    layers: int = Field(default=3, ge=0, le=1000)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    sensor_embedding: int = Field(default=32, ge=0, le=2**16)
    time_embedding: int = Field(default=16, ge=0, le=2**16)
    calendar: Calendar = "weekend"
    management: float = Field(default=0.1, ge=0)
    loss: Literal["mae", "mse", "huber"] = "mae"
    residual: bool = True
