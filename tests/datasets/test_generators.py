"""Generators: seeded, quick, synthetic by name, and with the properties that their docs claim."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hetfed.errors import PlanError
from hetfed_datasets import random_input, sample_cities, sample_hospitals

CITIES = {
    "loops": ((2880, 12, 1), 5, "mph"),
    "probes": ((1344, 10, 1), 15, "km/h"),
    "signals": ((1344, 14, 1), 15, "vehicles/15 min"),
    "camera": ((1344, 1, 4), 15, "vehicles/15 min"),
}
RANDOM = (random_input.table, random_input.images)


def auroc(features, label):
    """Five-fold AUROC of a logistic regression."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return roc_auc_score(label, cross_val_predict(model, features, label, cv=5, method="predict_proba")[:, 1])


@pytest.fixture(scope="module")
def hospitals():
    return sample_hospitals.generate()


@pytest.fixture(scope="module")
def cities():
    return {name: sample_cities.generate(name) for name in CITIES}


@pytest.mark.parametrize("generate", [sample_hospitals.generate, *RANDOM])
def test_same_seed_same_cohort(generate):
    one, two, other = generate(seed=5), generate(seed=5), generate(seed=6)
    assert one.synthetic
    for name, array in one.modalities.items():
        assert np.array_equal(array, two.modalities[name]) and not np.array_equal(array, other.modalities[name])
    for name, label in one.labels.items():
        assert np.array_equal(label, two.labels[name]) and not np.array_equal(label, other.labels[name])


@pytest.mark.parametrize("city", CITIES)
def test_same_seed_same_city(city):
    one, two, other = (sample_cities.generate(city, seed=seed).values for seed in (5, 5, 6))
    assert np.array_equal(one, two, equal_nan=True) and not np.array_equal(one, other, equal_nan=True)


def test_hospitals_have_their_shape(hospitals):
    assert hospitals.name == "sample-hospitals" and hospitals.synthetic
    assert hospitals.modalities["image"].shape == (410, 32, 32, 1) and hospitals.modalities["image"].dtype == np.uint8
    assert hospitals.modalities["genes"].shape == (410, 60) == (410, len(hospitals.columns["genes"]))
    sizes = {site: int((hospitals.site == site).sum()) for site in set(hospitals.site)}
    assert sizes == {"north": 150, "south": 110, "east": 90, "west": 60}
    assert len(set(hospitals.patient)) == 410


def test_hospitals_lack_modalities_but_never_both(hospitals):
    image, genes = hospitals.present["image"], hospitals.present["genes"]
    assert (image | genes).all()
    assert not genes[hospitals.site == "east"].any() and genes[hospitals.site == "west"].all()
    assert 0 < (~image[hospitals.site == "north"]).sum() < 20
    assert not hospitals.modalities["image"][~image].any() and not hospitals.modalities["genes"][~genes].any()


def test_subtype_shows_in_both_modalities_but_not_fully(hospitals):
    for name in ("image", "genes"):
        for site in ("north", "south"):
            rows = hospitals.present[name] & (hospitals.site == site)
            features = hospitals.modalities[name][rows].reshape(rows.sum(), -1).astype(float)
            assert 0.65 < auroc(features, hospitals.labels["subtype"][rows]) < 0.95


def test_only_the_leaning_modules_tell_the_subtype(hospitals):
    rows = hospitals.present["genes"] & (hospitals.site == "north")
    genes, label = hospitals.modalities["genes"][rows], hospitals.labels["subtype"][rows]
    gap = np.abs(genes[label == 1].mean(axis=0) - genes[label == 0].mean(axis=0))
    assert gap[:20].mean() > 2 * gap[20:].mean()


def test_batch_effect_tells_hospitals_apart(hospitals):
    rows = hospitals.present["genes"] & np.isin(hospitals.site, ["north", "south"])
    assert auroc(hospitals.modalities["genes"][rows], (hospitals.site[rows] == "north").astype(int)) > 0.95
    image = hospitals.modalities["image"]
    brightness = [image[hospitals.present["image"] & (hospitals.site == site)].mean() for site in ("south", "east", "west")]
    assert np.ptp(brightness) > 1


@pytest.mark.parametrize("city", CITIES)
def test_city_has_its_shape(city, cities):
    record, (shape, interval, unit) = cities[city], CITIES[city]
    assert record.name == "sample-cities" and record.synthetic
    assert record.values.shape == shape and (record.interval, record.unit) == (interval, unit)
    assert np.array_equal(record.adjacency, record.adjacency.T) and (np.diag(record.adjacency) == 1).all()
    assert (len(record.time), len(record.sensors), len(record.channels)) == shape
    assert np.nanmin(record.values) >= 0
    missing = np.isnan(record.values).mean()
    assert 0.005 < missing < 0.1 if city == "probes" else missing == 0


def test_working_days_repeat_and_differ_from_weekends(cities):
    total = cities["signals"].values.sum(axis=(1, 2)).reshape(14, 96)
    working = total[[0, 1, 2, 3, 4, 7, 8, 9, 10, 11]].mean(axis=0)
    weekend = total[[5, 6, 12, 13]].mean(axis=0)
    assert np.corrcoef(total[8], working)[0, 1] > 0.9
    assert working[32] > 1.5 * weekend[32]  # eight o'clock
    assert working[12] < 0.3 * working[32]  # three at night


def test_congestion_moves_upstream(cities):
    """The speed of a sensor follows that of the next one down the road better a step later than a step before."""
    speed = cities["loops"].values[..., 0]
    slow = speed / np.quantile(speed, 0.95, axis=0) < 0.7
    assert 0.02 < slow.mean() < 0.2
    queue = -np.minimum(speed / np.quantile(speed, 0.95, axis=0), 0.9)
    later = np.mean([np.corrcoef(queue[1:, i], queue[:-1, i + 1])[0, 1] for i in range(4)])
    before = np.mean([np.corrcoef(queue[:-1, i], queue[1:, i + 1])[0, 1] for i in range(4)])
    assert later > before


def test_an_incident_leaves_a_queue_upstream_of_it():
    """A sudden loss of capacity at the end of a quiet road reaches the sensors before it one step after another."""
    layout = sample_cities.LAYOUTS["loops"]
    load = np.full((40, 5), 0.5)
    load[10:20, 4] = 2.0
    queue = sample_cities._queue(load, sample_cities.road_graph((5,)), layout.interval)
    first = [int(np.argmax(queue[:, sensor] > 0.15)) for sensor in range(5)]
    assert first == sorted(first, reverse=True) and len(set(first)) == 5
    assert queue[:10].max() < 0.05 and queue[-1].max() < queue[19].max() / 2


def test_camera_level_grows_with_traffic(cities):
    camera = cities["camera"]
    assert camera.levels == ("low", "normal", "high", "heavy") and set(camera.level) == {0, 1, 2, 3}
    counts = camera.values.sum(axis=(1, 2))
    means = [counts[camera.level == level].mean() for level in range(3)]
    assert means == sorted(means)
    assert camera.values[..., 0].mean() > camera.values[..., 1:].sum(axis=2).mean()


@pytest.mark.parametrize("generate", RANDOM)
def test_random_cohorts_are_chance(generate):
    record = generate(patients=1000, seed=1)
    assert set(record.site) == {"one", "two", "three", "four"} and record.classes == {"coin": ("tails", "heads")}
    features = next(iter(record.modalities.values())).reshape(1000, -1).astype(float)
    assert auroc(features, record.labels["coin"]) == pytest.approx(0.5, abs=0.1)


def test_random_input_has_the_shape_asked_for():
    assert random_input.table(columns=7, patients=30).modalities["clinical"].shape == (30, 7)
    assert random_input.images(side=9, patients=30).modalities["image"].shape == (30, 9, 9, 1)
    one, two = (random_input.readings(city, sensors=3, steps=500) for city in ("one", "two"))
    assert one.values.shape == (500, 3, 1) and not np.array_equal(one.values, two.values)
    past, future = one.values[:-1].ravel(), one.values[1:].ravel()
    assert abs(np.corrcoef(past, future)[0, 1]) < 0.1


@pytest.mark.parametrize("generate", [sample_cities.generate, random_input.readings])
def test_unknown_city_is_refused(generate):
    with pytest.raises(PlanError, match=r"city: no such .* city \(value: 'atlantis'\)\. Known: "):
        generate("atlantis")
