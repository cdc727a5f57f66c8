"""Every algorithm keeps every law. A new one buys all of them with one row here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import goldens
import pytest
import toy_algorithm
import traps
from conformance import LAWS, Row, its_trap_is_avoided

from hetfed import algorithms
from hetfed.algorithms import NAMED, algorithm
from hetfed.errors import PlanError
from hetfed.exchanges import exchange
from hetfed.plan import named_algorithm, read_plan

HEAD = ("head.*",)
OWN = ("encoder.*", *HEAD)
BATCH_NORM = ("encoder.1.*",)
COUNT = ("encoder.1.num_batches_tracked",)

ROWS: dict[str, Row] = {
    "alone": Row(goldens.alone, private=("*",), shares=False),
    "fedavg": Row(goldens.fedavg, private=COUNT, trap=traps.buffers_are_averaged_and_counts_are_not),
    "fedprox": Row(goldens.fedprox, private=COUNT, trap=traps.the_pull_grows_with_the_square_of_the_distance),
    "fedadam": Row(goldens.fedadam, rounds=12, private=COUNT, trap=partial(traps.the_server_optimises_no_buffers, "fedadam")),
    "fedyogi": Row(goldens.fedyogi, private=COUNT, trap=partial(traps.the_server_optimises_no_buffers, "fedyogi")),
    "fedadagrad": Row(goldens.fedadagrad, private=COUNT, trap=partial(traps.the_server_optimises_no_buffers, "fedadagrad")),
    "scaffold": Row(goldens.scaffold, private=COUNT, trap=traps.variates_last_between_rounds),
    "fedbn": Row(goldens.fedbn, private=BATCH_NORM, trap=traps.norm_layers_are_known_by_their_type),
    "fedper": Row(goldens.fedper, private=HEAD, trap=traps.a_newcomer_has_a_head_of_its_own),
    "fedrep": Row(goldens.fedrep, private=HEAD, trap=traps.the_last_round_is_like_any_other),
    "fedbabu": Row(goldens.fedbabu, private=HEAD, trap=traps.the_frozen_head_is_one_and_the_same_everywhere),
    "lg-fedavg": Row(goldens.lg_fedavg, widths=(4, 5, 3), private=("encoder.*",)),
    "ditto": Row(goldens.ditto, private=OWN, trap=traps.weight_zero_is_purely_local),
    "pfedme": Row(goldens.pfedme, settings={"weight": 5.0}, private=OWN, trap=traps.an_own_line_meets_its_copy_half_way),
    "apfl": Row(goldens.apfl, private=(*OWN, "mixture"), trap=traps.a_share_beyond_its_bounds_comes_back),
    "heterofl": Row(
        goldens.heterofl,
        widths=(4, 2, 4),
        private=("*running*", *COUNT),
        trap=traps.statistics_are_static_outputs_scaled_logits_masked,
    ),
    "fedrolex": Row(goldens.fedrolex, widths=(4, 2, 4), private=("*running*", *COUNT), trap=traps.the_window_moves_on),
    "fedmd": Row(goldens.fedmd, widths=(4, 5, 3), private=("*",), trap=traps.raw_logits_travel),
    "feddf": Row(goldens.feddf, private=COUNT, trap=traps.distillation_stops_before_it_spoils),
    "fedproto": Row(goldens.fedproto, widths=(4, 5, 3), private=("*",), trap=traps.prototypes_are_those_of_the_trained_model),
    "fedtgp": Row(goldens.fedtgp, settings={"weight": 1.0}, widths=(4, 5, 3), private=("*",), trap=traps.the_margin_has_a_cap),
    "fml": Row(goldens.fml, widths=(4, 5, 3), private=OWN, trap=traps.teachers_learn_nothing_from_their_pupils),
    "second-model": Row(goldens.second_model, widths=(4, 5, 3), private=OWN, trap=traps.each_of_the_two_has_a_loss_of_its_own),
    "two-alone": Row(goldens.two_alone, widths=(4, 5, 3), private=("*",), shares=False),
    "alone-again": Row(goldens.alone_again, widths=(4, 5, 3), private=("*",), shares=False),
    "fedkd": Row(
        goldens.fedkd,
        widths=(4, 5, 3),
        private=(*OWN, "projector.*"),
        trap=traps.changes_are_compressed_and_weights_are_not,
    ),
    "fedgen": Row(
        goldens.fedgen,
        settings={"epochs": 20},
        widths=(4, 5, 3),
        private=("encoder.*",),
        trap=traps.generated_features_differ_with_the_noise,
    ),
    "fedgh": Row(goldens.fedgh, widths=(4, 5, 3), private=("*",), trap=traps.the_head_learns_at_the_server),
    "fedmrl": Row(goldens.fedmrl, widths=(4, 5, 3), private=(*OWN, "projector.*"), trap=traps.the_projector_stays_and_lasts),
    "feature-means": Row(toy_algorithm.golden, widths=(4, 5, 3), private=("*",)),
    "codistillation": Row(
        goldens.codistillation, settings={"every": 1}, widths=(4, 5, 3), trap=traps.everybody_teaches_with_what_it_sent
    ),
}


def test_every_algorithm_has_a_row() -> None:
    assert set(ROWS) == set(NAMED)


def test_what_a_file_of_ones_own_registers_stands_in_plans() -> None:
    text = '[[exchange]]\nkind = "feature-means"\nweight = 2.0\n[[client]]\nname = "a"\n'
    (step,) = read_plan(text, "plan.toml").composition()
    assert (step.exchange, step.label) == (toy_algorithm.FeatureMeans(weight=2.0), "feature-means")
    assert named_algorithm("feature-means", {"weight": 2.0}).steps == (step,)
    with pytest.raises(PlanError, match=r"exchange\[0\].weight: .*greater than 0"):
        read_plan(text.replace("2.0", "0"), "plan.toml").composition()
    with pytest.raises(PlanError, match=r"exchange\[0\].wieght: unknown key .* Did you mean 'weight'\?"):
        read_plan(text.replace("weight", "wieght"), "plan.toml").composition()


def test_names_are_taken_but_once() -> None:
    with pytest.raises(ValueError, match=r"'slices' is Slices, and cannot be FeatureMeans too"):
        exchange("slices")(toy_algorithm.FeatureMeans)
    with pytest.raises(ValueError, match="another algorithm 'fedavg'"):
        algorithm("fedavg")(toy_algorithm.feature_means)
    assert exchange("feature-means")(toy_algorithm.FeatureMeans) is toy_algorithm.FeatureMeans


def test_installed_packages_are_asked_for_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[hetfed.exchanges]\nanything = plug_in\n", encoding="utf-8")
    source = "from hetfed.algorithms import algorithm, fedavg\n\nalgorithm('of a plug-in')(lambda: fedavg())\n"
    (tmp_path / "plug_in.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(algorithms, "NAMED", dict(NAMED))
    algorithms.load_plug_ins()
    assert algorithms.NAMED["of a plug-in"]().steps == algorithms.fedavg().steps


CASES = [(name, law) for name, row in ROWS.items() for law in LAWS if row.trap or law is not its_trap_is_avoided]


@pytest.mark.parametrize(("name", "law"), CASES, ids=[f"{name}: {law.__name__}" for name, law in CASES])
def test_law(name: str, law: Callable[[str, Row], None]) -> None:
    law(name, ROWS[name])
