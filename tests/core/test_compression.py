"""Smaller payloads: what arrives, by hand; what is owed and repaid; and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from whole import Federation, enrol, init, load_state, run_round, save_state

from hetfed.composition import Composition, Step, compose
from hetfed.compression import Compression, decode
from hetfed.errors import PayloadRefused, PlanError
from hetfed.exchanges import LogitDistillation, SharedParameters
from hetfed.payload import Payload
from hetfed.plan import read_plan

TOP_TWO = Compression("top-k", share=2 / 8)


def arrives(
    compression: Compression, tensor: Tensor, sent: Tensor | None = None, owed: dict[str, Tensor] | None = None
) -> Tensor:
    """What the server makes of one tensor `w`."""
    base = {"w": torch.zeros_like(tensor) if sent is None else sent}
    travels = Payload.decode(compression.up(Payload({"w": tensor}, 7), base, owed).encoded)
    found = compression.arrived(travels, base, {"w": tuple(tensor.shape)})
    assert found.weight == 7
    return found.tensors["w"]


def travelled(compression: Compression, tensor: Tensor) -> dict[str, Tensor]:
    return dict(compression.up(Payload({"w": tensor}), {"w": torch.zeros_like(tensor)}).tensors)


def of_singular_values(*values: float, size: int = 8) -> Tensor:
    """A matrix with these, and directions that are not those of its rows."""
    chance = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=chance).double())[0] for _ in range(2))
    return (left[:, : len(values)] * torch.tensor(values).double() @ right[: len(values)]).float()


@pytest.mark.parametrize(("energy", "rank"), [(0.76, 1), (0.77, 2), (0.95, 2), (0.96, 3), (0.999, 3)])
def test_low_rank_keeps_as_many_singular_values_as_hold_the_energy(energy: float, rank: int) -> None:
    """Of 4, 2 and 1 the squares are 16, 4 and 1: 76 % and 95 % of 21."""
    matrix = of_singular_values(4, 2, 1)
    u, s, v = torch.linalg.svd(matrix)
    assert travelled(Compression("low-rank", energy=energy), matrix)["w~left"].shape == (8, rank)
    expected = u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]
    assert torch.allclose(arrives(Compression("low-rank", energy=energy), matrix), expected, atol=1e-5)


def test_a_flat_spectrum_is_cut_to_one_direction_and_not_to_none() -> None:
    found = arrives(Compression("low-rank", energy=0.01), torch.eye(8))
    assert torch.linalg.svdvals(found).tolist() == pytest.approx([1.0] + [0.0] * 7, abs=1e-6)


def test_nothing_changed_arrives_as_nothing() -> None:
    for compression in (Compression("low-rank"), TOP_TWO, Compression("8-bit")):
        assert torch.equal(arrives(compression, torch.zeros(8, 8)), torch.zeros(8, 8))
        assert torch.equal(arrives(compression, torch.ones(8, 8), torch.ones(8, 8)), torch.ones(8, 8))


def test_low_rank_takes_the_filters_of_a_convolution_for_rows() -> None:
    filters = of_singular_values(3, size=9)[:6].reshape(6, 3, 3)
    assert travelled(Compression("low-rank"), filters)["w~right"].shape == (1, 9)
    assert torch.allclose(arrives(Compression("low-rank"), filters), filters, atol=1e-5)


def test_the_largest_changes_arrive_where_they_stand() -> None:
    sent = torch.full((2, 4), 10.0)
    change = torch.tensor([[0.5, -3.0, 0.1, 0.0], [2.0, -0.2, 1.0, 0.3]])
    expected = torch.tensor([[10.0, 7.0, 10.0, 10.0], [12.0, 10.0, 10.0, 10.0]])
    assert torch.equal(arrives(TOP_TWO, sent + change, sent), expected)


def test_what_is_left_out_is_owed_and_repaid() -> None:
    """Each time everything changes by 1 to 8: what is large goes at once, what is small when enough of it has come together."""
    step, owed = torch.arange(1.0, 9.0).view(2, 4), {}
    sent, arrived = torch.zeros(2, 4), []
    for _ in range(3):
        after = arrives(TOP_TWO, sent + step, sent, owed)
        arrived.append((after - sent).flatten().tolist())
        sent = after
    assert arrived == [
        [0, 0, 0, 0, 0, 0, 7, 8],
        [0, 0, 0, 0, 10, 12, 0, 0],
        [0, 0, 0, 0, 0, 0, 14, 16],
    ]
    assert torch.equal(sent + owed["w"], 3 * step)
    assert owed["w"].flatten().tolist() == [3, 6, 9, 12, 5, 6, 0, 0]


def test_without_error_feedback_nothing_is_owed() -> None:
    sent, step = torch.zeros(2, 4), torch.arange(1.0, 9.0).view(2, 4)
    for _ in range(3):
        sent = arrives(TOP_TWO, sent + step, sent)
    assert sent.flatten().tolist() == [0, 0, 0, 0, 0, 0, 21, 24]


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6))
def test_eight_bits_err_by_half_a_step_at_most(seed: int, size: float) -> None:
    tensor = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)) * size
    scale = float(tensor.abs().max()) / 127
    assert float((arrives(Compression("8-bit"), tensor) - tensor).abs().max()) <= scale * 0.5001


def test_eight_bits_keep_whole_numbers_up_to_127() -> None:
    tensor = torch.tensor([[127.0, -127.0, 3.0], [0.0, -64.0, 1.0], [5.0, 6.0, 7.0]])
    parts = travelled(Compression("8-bit"), tensor)
    assert torch.equal(parts["w~whole"], tensor.to(torch.int8))
    assert torch.equal(arrives(Compression("8-bit"), tensor), tensor)


@pytest.mark.parametrize("kind", ["8-bit", "top-k", "low-rank"])
def test_what_would_not_get_smaller_travels_as_it_is(kind: str) -> None:
    for tensor in (torch.arange(50.0), torch.tensor([[2.0]]), torch.zeros(0, 3), torch.eye(9).long()):
        assert set(travelled(Compression(kind, energy=1.0), tensor)) == {"w"}
        assert torch.equal(arrives(Compression(kind, energy=1.0), tensor, tensor - 1), tensor)


def test_compressed_payloads_are_smaller() -> None:
    matrix = of_singular_values(5, 0.1, size=64)
    whole = len(Payload({"w": matrix}).encoded)
    for compression, times in (
        (Compression("8-bit"), 3.5),
        (Compression("top-k", share=0.1), 4),
        (Compression("low-rank"), 20),
    ):
        assert whole > times * len(compression.up(Payload({"w": matrix}), {"w": matrix * 0}).encoded)


def test_only_changes_are_cut() -> None:
    """Of logits, which are no change of what was sent, the largest alone would say nothing."""
    logits = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    for kind in ("top-k", "low-rank"):
        assert toy.same(Compression(kind).up(Payload({"logits": logits}), {}).tensors, {"logits": logits})
    with pytest.raises(PlanError, match="both_ways goes with 8-bit only"):
        Compression("top-k", both_ways=True)


def shared(compression: Compression, part: str = "encoder") -> Composition:
    return compose(Step(SharedParameters(part), compression=compression))


def held(state: object) -> Mapping[str, Tensor]:
    return {key.rpartition("/")[2]: t for key, t in state.server["shared-parameters"].items()}


WIDE = {"width": 40}
NAME = "encoder.4.weight"


def test_a_client_owes_what_its_uploads_left_out() -> None:
    """One client: the server's tensor is the start plus all that arrived; what the client holds is that plus what it owes."""
    client, federated = toy.client("a", **WIDE), shared(Compression("top-k", share=0.1))
    enrolment = enrol(federated, [client])
    federation = Federation.of(enrolment.clients, enrolment.composition, 3, 0)
    state = init(federation)
    for _ in range(3):
        before, owed = held(state)[NAME], state.clients["a"].exchanges.get("shared-parameters owed", {})
        state = run_round(federation, state)
        now = state.clients["a"].exchanges["shared-parameters owed"][NAME]
        change = state.clients["a"].model[NAME] - before
        assert int((held(state)[NAME] != before).sum()) == 12
        assert torch.allclose(held(state)[NAME] - before + now, change + owed.get(NAME, 0), atol=1e-6)
        assert now.abs().max() > 0


def test_what_is_owed_outlives_the_process(tmp_path: object) -> None:
    enrolment = enrol(shared(Compression("top-k", share=0.1)), [toy.client("a", **WIDE), toy.client("b", **WIDE)])
    federation = Federation.of(enrolment.clients, enrolment.composition, 3, 0)
    state = run_round(federation, init(federation))
    save_state(state, tmp_path / "state.safetensors", "digest")
    again = load_state(tmp_path / "state.safetensors", "digest")
    ends = [held(run_round(federation, run_round(federation, found))) for found in (state, again)]
    assert toy.same(*ends)
    again.clients["a"].exchanges["shared-parameters owed"].clear()
    assert not toy.same(held(run_round(federation, run_round(federation, again))), ends[0])


@pytest.mark.parametrize("both_ways", [False, True])
def test_the_server_may_send_eight_bits_too(both_ways: bool) -> None:
    clients = [toy.client("a", **WIDE), toy.client("b", **WIDE)]
    state, uploads = toy.federate(clients, shared(Compression("8-bit", both_ways=both_ways)), 2)
    exact, _ = toy.federate(clients, shared(Compression("8-bit")), 1)
    assert [upload.refused for upload in uploads] == [None] * 4
    down = {row.bytes_down for row in state.rows if row.round == 2}
    assert (max(down) < 0.9 * len(Payload(held(exact)).encoded)) == both_ways


def test_predictions_travel_in_eight_bits() -> None:
    clients = [toy.client("a"), toy.client("b", width=5)]
    composition = compose(Step(LogitDistillation(), every=2, compression=Compression("8-bit")))
    state, uploads = toy.federate(clients, composition, 4)
    assert {tuple(upload.travelled.tensors) for upload in uploads} == {("logits~scale", "logits~whole")}
    mean = torch.stack([upload.contents.tensors["logits"] for upload in uploads if upload.round == 4]).mean(dim=0)
    assert torch.allclose(state.server["logit-distillation"]["logits"], mean, atol=1e-6)


@pytest.mark.parametrize("kind", ["top-k", "low-rank"])
def test_changes_need_what_they_are_changes_of(kind: str) -> None:
    step = Step(SharedParameters(), every=2, compression=Compression(kind))
    with pytest.raises(PlanError, match=rf"compression.*{kind}.*Set every = 1"):
        enrol(compose(step), [toy.client("a")])


PLAN = '[[exchange]]\nkind = "shared-parameters"\ncompression = %s\n[[client]]\nname = "a"\n'


def test_a_plan_has_a_short_form() -> None:
    (step,) = read_plan(PLAN % '"8-bit"', "plan.toml").composition()
    assert step.compression == Compression("8-bit")
    (step,) = read_plan(PLAN % '{ kind = "top-k", share = 0.2 }', "plan.toml").composition()
    assert step.compression == Compression("top-k", share=0.2)
    with pytest.raises(PlanError, match="both_ways goes with 8-bit only"):
        read_plan(PLAN % '{ kind = "low-rank", both_ways = true }', "plan.toml")


SHAPE, I32 = torch.tensor([2, 4], dtype=torch.int32), torch.int32
SPOILT = {
    "unknown name 'v'": {"v": torch.zeros(2, 4)},
    "its parts are .*'scale'": {"w~scale": torch.ones(1)},
    "has shape .4, 2.": {"w": torch.zeros(4, 2)},
    "has shape .9, 9., declared": {"w~whole": torch.zeros(9, 9, dtype=torch.int8), "w~scale": torch.ones(1)},
    "has shape .2,., declared .1": {"w~whole": torch.zeros(2, 4, dtype=torch.int8), "w~scale": torch.ones(2)},
    "a place lies outside": {"w~at": torch.tensor([8], dtype=I32), "w~values": torch.ones(1), "w~shape": SHAPE},
    "lies outside the tensor": {"w~at": torch.tensor([-1], dtype=I32), "w~values": torch.ones(1), "w~shape": SHAPE},
    "has shape .2,.": {"w~at": torch.tensor([0, 1], dtype=I32), "w~values": torch.ones(1), "w~shape": SHAPE},
    "has shape .90000, 90000.": {
        "w~at": torch.tensor([0], dtype=I32),
        "w~values": torch.ones(1),
        "w~shape": torch.tensor([90000, 90000], dtype=I32),
    },
    "do not make": {"w~left": torch.ones(3, 1), "w~right": torch.ones(1, 4), "w~shape": SHAPE},
    "do not make .2, 4.": {"w~left": torch.ones(2), "w~right": torch.ones(1, 4), "w~shape": SHAPE},
    "cannot be decompressed": {"w~left": torch.ones(2, 2), "w~right": torch.ones(3, 4), "w~shape": SHAPE},
    "is torch.float64, sent was torch.float32": {"w": torch.zeros(2, 4, dtype=torch.float64)},
}


@pytest.mark.parametrize("reason", SPOILT)
def test_what_does_not_fit_together_is_refused(reason: str) -> None:
    with pytest.raises(PayloadRefused, match=reason):
        TOP_TWO.arrived(Payload(SPOILT[reason]), {"w": torch.zeros(2, 4)}, {"w": (2, 4)})


def test_a_spoilt_upload_does_not_stop_the_round() -> None:
    clients = [toy.client("a", **WIDE), toy.client("b", **WIDE)]
    composition = shared(Compression("top-k"))

    def engine(jobs: object, this: object) -> object:
        for client, turn in toy.local(jobs, this):
            spoilt = {label: Payload({f"{NAME}~at": torch.ones(1)}).encoded for label in turn.outbox}
            yield client, replace(turn, outbox=spoilt) if client == "a" else turn

    state, uploads = toy.federate(clients, composition, engine=engine)
    assert {upload.client: upload.refused for upload in uploads if upload.refused}.keys() == {"a"}
    sent = next(upload.contents.tensors for upload in uploads if upload.client == "b")
    assert toy.same(held(state), sent)


def test_parts_are_decoded_in_the_order_of_names() -> None:
    encoded = Compression("8-bit").up(Payload({"b": torch.ones(9, 9), "a": torch.ones(9, 9)}), {}).tensors
    assert list(decode(encoded)) == ["a", "b"]
