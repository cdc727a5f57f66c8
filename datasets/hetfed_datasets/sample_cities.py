"""Four synthetic cities, each watched in another way: loops, probes, signals, camera.

What it imitates, and how:

- road graph: sensors on a few roads, in driving order; a road's sensors are linked in a chain and roads cross at junctions;
- rhythm: demand has two peaks on working days and one flat hump at weekends, each sensor with its own share and each road with
  its own rush hour (morning inbound, evening outbound);
- congestion wave: where demand nears capacity a queue forms and moves upstream, a link per step, fading as it goes;
- incidents: at random times and places the capacity falls for half an hour to two hours, and the queue spreads the same way;
- readings: speed falls with the queue (loops, probes); counts follow demand and are held down by the queue (signals, camera);
  probes miss readings, more at night; a camera sorts vehicles by class and misses some that stand behind others (occlusion).

All of it is made up; no road stands behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hetfed.errors import PlanError
from hetfed_datasets.records import SUM, Measure, Series

Array = NDArray[np.float64]
City = Literal["loops", "probes", "signals", "camera"]
START = "2024-03-04"
"""A Monday."""
DAY = 24 * 60
LEVELS = ("low", "normal", "high", "heavy")
LEVEL_CUTS = (0.3, 0.7, 1.0)
"""Load (demand over capacity, queues included) from which the level is normal, high, heavy."""
VEHICLES = ("car", "bike", "bus", "truck")


@dataclass(frozen=True)
class Layout:
    """A city: sensors on each road, minutes between readings, days, and the seed that tells it from the others.

    Args:
        roads: how many sensors stand on each road.
        interval: minutes between readings.
        days: from Monday on.
        salt: mixed into the seed.

    >>> Layout((5, 4), interval=15, days=7, salt=9).steps
    672
    """

    roads: tuple[int, ...]
    interval: int
    days: int
    salt: int

    @property
    def steps(self) -> int:
        """How many readings of each sensor there are."""
        return self.days * DAY // self.interval


LAYOUTS: dict[str, Layout] = {
    "loops": Layout((5, 4, 3), 5, 10, 1),
    "probes": Layout((4, 3, 3), 15, 14, 2),
    "signals": Layout((5, 5, 4), 15, 14, 3),
    "camera": Layout((1,), 15, 14, 4),
}


@dataclass(frozen=True)
class Traffic:
    """What happens on the roads: `demand` and `queue`, both (time, sensor), as shares of capacity.

    Args:
        time: (time,) stamps.
        demand: vehicles that want to pass, as a share of capacity; above 1 they queue.
        queue: 0 for free flow, 1 for standstill.
    """

    time: pd.DatetimeIndex
    demand: Array
    queue: Array


def generate(city: City = "loops", seed: int = 0) -> Series:
    """One city's readings, with its road graph. The same city and seed give the same series.

    loops: mph every 5 min at 12 sensors, 10 days. probes: km/h every 15 min at 10, 14 days, some missing. signals: vehicles per
    15 min at 14, 14 days. camera: cars, bikes, buses and trucks per 15 min at one sensor, 14 days, with a congestion level.

    Raises:
        PlanError: there is no such city.

    >>> series = generate("signals", seed=1)
    >>> series.values.shape, series.unit, series.interval
    ((1344, 14, 1), 'vehicles/15 min', 15)
    >>> generate("camera").levels
    ('low', 'normal', 'high', 'heavy')
    """
    if city not in LAYOUTS:
        raise PlanError("no such sample city", key="city", value=city, remedy=f"Known: {', '.join(LAYOUTS)}.")
    layout = LAYOUTS[city]
    # A salt besides the seed: the cities of one seed must not share their incidents.
    rng = np.random.default_rng([seed, layout.salt])
    adjacency = road_graph(layout.roads)
    traffic = _traffic(layout, adjacency, rng)
    values, channels, unit, kind = READERS[city](traffic, rng)
    return Series(
        name="sample-cities",
        values=values.astype(np.float32),
        time=traffic.time,
        sensors=tuple(f"road{road}-{place}" for road, length in enumerate(layout.roads) for place in range(length)),
        channels=channels,
        unit=unit,
        kind=kind,
        interval=layout.interval,
        adjacency=adjacency,
        level=_level(traffic) if city == "camera" else None,
        levels=LEVELS if city == "camera" else (),
        synthetic=True,
        target=SUM if city == "camera" else None,
    )


def road_graph(roads: tuple[int, ...]) -> NDArray[np.float32]:
    """The links (sensor, sensor): 1 to oneself and to the neighbours on the road, 0.5 where a road crosses the first one.

    Args:
        roads: how many sensors stand on each road.

    >>> road_graph((2, 1))
    array([[1. , 1. , 0. ],
           [1. , 1. , 0.5],
           [0. , 0.5, 1. ]], dtype=float32)
    """
    first = np.cumsum((0, *roads[:-1]))
    links = np.eye(sum(roads), dtype=np.float32)
    for start, length in zip(first, roads, strict=True):
        places = np.arange(start, start + length - 1)
        links[places, places + 1] = links[places + 1, places] = 1.0
    for road, start in enumerate(first[1:], start=1):
        # Each road crosses the first one at its own middle, and at another place of the first one.
        crossing, middle = road % roads[0], start + roads[road] // 2
        links[crossing, middle] = links[middle, crossing] = 0.5
    return links


def _traffic(layout: Layout, adjacency: NDArray[np.float32], rng: np.random.Generator) -> Traffic:
    time = pd.date_range(START, periods=layout.steps, freq=f"{layout.interval}min")
    sensors = len(adjacency)
    # The rhythm peaks at about 0.78, so that the busiest sensors reach their capacity: queues start where the load nears 0.9.
    share = rng.uniform(0.95, 1.3, sensors)
    inbound = np.repeat(np.arange(len(layout.roads)) % 2 == 0, layout.roads)
    demand = share * _rhythm(time, inbound) * _day_to_day(layout, rng)
    # As a factor, so that noise never makes demand negative.
    demand *= np.exp(_slow_noise(layout.steps, sensors, 0.10, rng))
    capacity = 1 - _incidents(layout, sensors, rng)
    return Traffic(time, demand, _queue(demand / capacity, adjacency, layout.interval))


def _rhythm(time: pd.DatetimeIndex, inbound: NDArray[np.bool_]) -> Array:
    """Expected demand (time, sensor) as a share of capacity; inbound roads are busier in the morning."""
    hour = (time.hour + time.minute / 60).to_numpy()[:, None]
    weekend = (time.dayofweek.to_numpy() >= 5)[:, None]
    morning = np.where(inbound, 0.55, 0.35) * np.exp(-(((hour - 8.0) / 1.3) ** 2))
    evening = np.where(inbound, 0.35, 0.55) * np.exp(-(((hour - 17.5) / 1.7) ** 2))
    daytime = 0.40 * np.exp(-(((hour - 13.5) / 5.5) ** 4))
    leisure = 0.50 * np.exp(-(((hour - 14.5) / 4.5) ** 2))
    return np.asarray(0.08 + np.where(weekend, leisure, morning + evening + daytime))


def _day_to_day(layout: Layout, rng: np.random.Generator) -> Array:
    """How busy each day is as a whole (time, 1)."""
    return np.repeat(rng.normal(1, 0.06, layout.days), DAY // layout.interval)[:, None]


def _slow_noise(steps: int, sensors: int, scale: float, rng: np.random.Generator) -> Array:
    """Noise (time, sensor) of standard deviation `scale` in which a step keeps nine tenths of the one before."""
    from scipy.signal import lfilter

    keep = 0.9
    # So scaled, the sum of what is kept has the standard deviation that is asked for.
    white = rng.normal(0, scale * np.sqrt(1 - keep**2), (steps, sensors))
    return np.asarray(lfilter([1.0], [1.0, -keep], white, axis=0))


def _incidents(layout: Layout, sensors: int, rng: np.random.Generator) -> Array:
    """The share of capacity that is lost (time, sensor): about one incident per sensor and week, half an hour to two hours."""
    lost = np.zeros((layout.steps, sensors))
    for _ in range(rng.poisson(sensors * layout.days / 7)):
        start, sensor = rng.integers(layout.steps), rng.integers(sensors)
        length = int(rng.uniform(30, 120)) // layout.interval
        lost[start : start + length, sensor] = rng.uniform(0.3, 0.6)
    return lost


def _queue(load: Array, adjacency: NDArray[np.float32], interval: int) -> Array:
    """How much of a queue there is (time, sensor), 0..1: it grows where load is near 1 and reaches neighbours step by step.

    A queue forgets itself within half an hour, and the sensor before it on the road has most of it one step later: the wave.
    At a junction it passes on from the crossing road to the first one.
    """
    keep, passed_on = np.exp(-interval / 30), np.exp(-interval / 60)
    # Sensors are numbered in driving order: what is further down has the larger number.
    downstream = np.triu(adjacency, 1)
    # Hardly any at a load of 0.7, half at 0.9, nearly all at 1.1.
    own = 1 / (1 + np.exp(-14 * (load - 0.9)))
    queue = np.zeros_like(load)
    for step in range(1, len(load)):
        arriving = passed_on * (downstream * queue[step - 1]).max(axis=1)
        # A wave goes on only where a sensor is busy itself: an empty road absorbs it.
        queue[step] = np.maximum(keep * queue[step - 1] + (1 - keep) * own[step], np.where(load[step] > 0.4, arriving, 0))
    return queue


def _loops(traffic: Traffic, rng: np.random.Generator) -> tuple[Array, tuple[str, ...], str, Measure]:
    free = rng.uniform(58, 68, traffic.demand.shape[1])
    speed = free * _slowed(traffic) + rng.normal(0, 1.5, traffic.demand.shape)
    return np.clip(speed, 3, 75)[..., None], ("speed",), "mph", "speed"


def _probes(traffic: Traffic, rng: np.random.Generator) -> tuple[Array, tuple[str, ...], str, Measure]:
    """A probe reading is the mean of the few taxis that pass; with none it is missing."""
    free = rng.uniform(35, 60, traffic.demand.shape[1])
    taxis = rng.poisson(2 + 8 * traffic.demand)
    # The mean of n taxis varies with one over the root of n.
    noise = rng.normal(0, 5.0, traffic.demand.shape) / np.sqrt(np.maximum(taxis, 1))
    speed = np.clip(free * _slowed(traffic) + noise, 2, 90)
    return np.where(taxis > 0, speed, np.nan)[..., None], ("speed",), "km/h", "speed"


def _signals(traffic: Traffic, rng: np.random.Generator) -> tuple[Array, tuple[str, ...], str, Measure]:
    capacity = rng.uniform(120, 320, traffic.demand.shape[1])
    return rng.poisson(capacity * _through(traffic)).astype(float)[..., None], ("vehicles",), "vehicles/15 min", "count"


def _camera(traffic: Traffic, rng: np.random.Generator) -> tuple[Array, tuple[str, ...], str, Measure]:
    """Counts by class; the denser the traffic, the more vehicles stand hidden behind others."""
    # Shares of the four classes; they sum to 1.
    mix = np.array([0.78, 0.10, 0.05, 0.07])
    passed = rng.poisson(180 * _through(traffic)[..., None] * mix)
    # Bikes are hidden most easily, buses and trucks hardly at all.
    seen = 0.97 - 0.25 * np.clip(traffic.demand + traffic.queue, 0, 1.5)[..., None] * np.array([1.0, 1.4, 0.3, 0.4])
    return rng.binomial(passed, seen).astype(float), VEHICLES, "vehicles/15 min", "count"


def _slowed(traffic: Traffic) -> Array:
    """Speed as a share of free speed: a little less with demand, much less in a queue."""
    return (1 - 0.08 * np.minimum(traffic.demand, 1.0)) * (1 - 0.7 * traffic.queue)


def _through(traffic: Traffic) -> Array:
    """Vehicles that get through, as a share of capacity: a queue holds them back."""
    return np.minimum(traffic.demand, 1.0) * (1 - 0.35 * traffic.queue)


def _level(traffic: Traffic) -> NDArray[np.int64]:
    """The camera's congestion level (time,)."""
    load = (traffic.demand + 0.5 * traffic.queue)[:, 0]
    return np.digitize(load, LEVEL_CUTS).astype(np.int64)


Reader = Callable[[Traffic, np.random.Generator], tuple[Array, tuple[str, ...], str, Measure]]
READERS: dict[str, Reader] = {"loops": _loops, "probes": _probes, "signals": _signals, "camera": _camera}
