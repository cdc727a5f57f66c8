"""Every algorithm keeps every law. A new one buys all of them with one row here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import goldens
import pytest
import traps
from conformance import LAWS, Row, its_trap_is_avoided

from hetfed.algorithms import NAMED

HEAD = ("head.*",)
OWN = ("encoder.*", *HEAD)
BATCH_NORM = ("encoder.1.*",)
COUNT = ("encoder.1.num_batches_tracked",)

ROWS: dict[str, Row] = {
    "alone": Row(goldens.alone, private=("*",), shares=False),
    "fedavg": Row(goldens.fedavg, private=COUNT, trap=traps.buffers_are_averaged_and_counts_are_not),
    "fedprox": Row(goldens.fedprox, private=COUNT, trap=traps.the_pull_grows_with_the_square_of_the_distance),
    "fedadam": Row(goldens.fedadam, private=COUNT, trap=partial(traps.the_server_optimises_no_buffers, "fedadam")),
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
    "peers": Row(goldens.peers, settings={"every": 1}, widths=(4, 5, 3), trap=traps.everybody_teaches_with_what_it_sent),
}


def test_every_algorithm_has_a_row() -> None:
    assert set(ROWS) == set(NAMED)


CASES = [(name, law) for name, row in ROWS.items() for law in LAWS if row.trap or law is not its_trap_is_avoided]


@pytest.mark.parametrize(("name", "law"), CASES, ids=[f"{name}: {law.__name__}" for name, law in CASES])
def test_law(name: str, law: Callable[[str, Row], None]) -> None:
    law(name, ROWS[name])
