"""A city's model: its own world (`city`), the encoder that cities share, and private heads."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from hetfed.data import Spec
from hetfed.model import Output
from hetfed_traffic.calendar import DAYS, SLOTS_PER_DAY, Entries, days_apart, kind_of, kinds_seen, slot_of, slots_apart
from hetfed_traffic.encoders import ENCODERS, Reads, reads_of
from hetfed_traffic.plan_schema import CityModelTable


class City(nn.Module):
    """What only this city has: the scale of its readings, its sensors, its rhythm, its road graph.

    Readings are (batch, steps, sensors, channels) in the city's unit, NaN where missing; the clock (batch, 2) holds the
    fraction of the day gone by and the day of the week.

    Args:
        spec: `sensors`, `channels` and `history` as counts, and `target`, the numbers of the channels that are forecast.
        table: the model table of the plan.
        reads: what the encoder wants, as `reads_of` says.
    """

    mean: Tensor
    scale: Tensor
    target_mean: Tensor
    target_scale: Tensor
    adjacency: Tensor
    seen_slots: Tensor
    seen_days: Tensor

    def __init__(self, spec: Spec, table: CityModelTable, reads: Reads) -> None:
        super().__init__()
        self.reads, self.target = reads, list(spec["target"])
        sensors, channels, steps = spec["sensors"], spec["channels"], spec["history"]
        # Only their sizes are everybody's to know: the city's own statistics are put in place where its model is built at home.
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("target_mean", torch.zeros(1))
        self.register_buffer("target_scale", torch.ones(1))
        self.register_buffer("adjacency", torch.zeros(sensors, sensors))
        # Whatever the encoder reads: a pooled model of one kind is given the statistics of cities of other kinds.
        self.register_buffer("seen_slots", torch.zeros(SLOTS_PER_DAY))
        self.register_buffer("seen_days", torch.zeros(DAYS))
        # What the encoder reads is as wide as its features, and the readings get what the embeddings leave.
        spare = table.features - table.sensor_embedding - 2 * table.time_embedding
        if reads == "embedded":
            self.adapter = nn.Linear(steps * channels, spare)
            # Small beside the readings, so that sensors start nearly alike and differ as far as they learn to.
            self.sensor = nn.Parameter(torch.randn(sensors, table.sensor_embedding) * 0.1)
            self.calendar = table.calendar
            self.time_of_day = Entries(slots_apart(), table.time_embedding)
            self.kind_of_day = Entries(days_apart(table.calendar), table.time_embedding)
        elif reads == "sequence":
            self.adapter = nn.Linear(channels, table.features)

    def forward(self, readings: Tensor, clock: Tensor) -> Tensor:
        """What the encoder reads (see `encoders`)."""
        # The encoder of the article takes the readings as they are, and has no use for an embedding.
        if self.reads == "history":
            return self._together(readings).transpose(1, 2)
        # By the city's own mean and deviation: the encoder that cities share sees no unit.
        scaled = torch.nan_to_num((readings - self.mean) / self.scale).transpose(1, 2)
        if self.reads == "sequence":
            return cast("Tensor", self.adapter(scaled))
        batch, sensors = scaled.shape[:2]
        slot = self.time_of_day(slot_of(clock), self.seen_slots)
        kind = self.kind_of_day(kind_of(clock, self.calendar), kinds_seen(self.seen_days, self.calendar))
        time = torch.cat([slot, kind], dim=1)
        parts = [
            self.adapter(scaled.reshape(batch, sensors, -1)),
            self.sensor.expand(batch, -1, -1),
            time[:, None].expand(-1, sensors, -1),
        ]
        return torch.cat(parts, dim=2)

    def latest(self, readings: Tensor) -> Tensor:
        """The last reading of what is forecast at each sensor, as a scaled target (batch, sensors); 0 (the mean) if missing.

        A forecast that says "as now" is what this alone would give.
        """
        return self._together(readings[:, -1:])[:, 0]

    def _together(self, readings: Tensor) -> Tensor:
        """Readings of what is forecast as scaled targets (batch, steps, sensors); 0 (the mean) if missing."""
        return torch.nan_to_num((readings[..., self.target].sum(dim=3) - self.target_mean) / self.target_scale)


class CityModel(nn.Module):
    """Forecasts every sensor of one city, and its congestion level.

    Args:
        spec: `sensors`, `channels`, `history` and `steps` as counts, `target` as numbers of channels, and `levels` by name.
        table: the model table of the plan.

    >>> spec = {"sensors": 5, "channels": 1, "target": [0], "history": 12, "steps": 4, "levels": ["free", "congested"]}
    >>> model = CityModel(spec, CityModelTable(encoder="mlp"))
    >>> output = model({"readings": torch.zeros(2, 12, 5, 1), "clock": torch.zeros(2, 2)})
    >>> output.logits.shape, output.further["level"].shape
    (torch.Size([2, 4, 5]), torch.Size([2, 5, 2]))
    """

    # The levels of congestion differ from city to city: their head stays out of every exchange and of pooled training, as the
    # city itself does.
    local_parts = ("city", "management")
    reads_input = MappingProxyType({"city": "readings"})

    def __init__(self, spec: Spec, table: CityModelTable) -> None:
        super().__init__()
        encoder = ENCODERS[table.encoder](spec["history"], table.features, table.layers, table.dropout)
        self.city = City(spec, table, reads_of(encoder))
        self.encoder = encoder
        self.head = nn.Linear(table.features, spec["steps"])
        self.management = nn.Linear(table.features, len(spec["levels"])) if table.management else None
        self.residual = table.residual

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """Logits (batch, steps, sensors); `further["level"]` (batch, sensors, levels).

        Args:
            inputs: `readings` (batch, history, sensors, channels) in the city's unit, and `clock` (batch, 2).

        Returns:
            Forecasts in deviations of the target from its mean, for the task to scale back; without `management`, no level.
        """
        readings = inputs["readings"]
        features = self.encoder(self.city(readings, inputs["clock"]), self.city.adjacency)
        # Steps before sensors, as in the target.
        logits = self.head(features).transpose(1, 2)
        if self.residual:
            # The forecast is what changes from now on: most of the next reading is the last one.
            logits = logits + self.city.latest(readings)[:, None]
        further = {} if self.management is None else {"level": self.management(features)}
        return Output(logits, features, further)


class CongestionModel(nn.Module):
    """Congested or not, from the past readings of one sensor: a shared encoder and a personal head.

    Each sensor is an example of its own, so that cities of any number of sensors share the encoder.

    >>> CongestionModel({"history": 12, "classes": 2}, CityModelTable(features=8))({"history": torch.zeros(3, 12)}).logits.shape
    torch.Size([3, 2])
    """

    def __init__(self, spec: Spec, table: CityModelTable) -> None:
        super().__init__()
        self.encoder = nn.Linear(spec["history"], table.features)
        self.head = nn.Linear(table.features, spec["classes"])

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """`inputs["history"]` (batch, steps) -> logits (batch, 2)."""
        features = self.encoder(inputs["history"])
        return Output(self.head(features), features)
