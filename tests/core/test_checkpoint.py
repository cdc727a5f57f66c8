"""Checkpoints: what is written comes back bit for bit, and nothing else is taken for it."""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from whole import State, load_state, save_state

from hetfed.client import ClientState, Tensors
from hetfed.composition import compose, every
from hetfed.errors import RunError, RunFolderError
from hetfed.exchanges import Prototypes, SharedParameters
from hetfed.federation import Row

DYING = """
import resource, signal, sys
from pathlib import Path
from whole import load_state, save_state
file = Path(sys.argv[1])
state = load_state(file, "plan")
state.round += 1
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
save_state(state, file, "plan")
"""

NAMES = st.text(st.sampled_from("ab|/.: é"), min_size=1, max_size=5)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
NUMBERS = st.floats(width=32)


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    flat = tensor.detach().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""


def content(state: State) -> object:
    """All of a state, comparable; a memory with nothing in it is as good as none."""

    def each(tensors: Tensors) -> dict[str, object]:
        return {name: bits(tensor) for name, tensor in tensors.items()}

    clients = {
        name: (
            each(c.model),
            each(c.optimizer),
            {label: each(memory) for label, memory in c.exchanges.items() if memory},
            each(c.best),
            repr(c.score),
            c.best_round,
        )
        for name, c in state.clients.items()
    }
    server = {label: each(tensors) for label, tensors in state.server.items()}
    return state.round, server, clients, [repr(row) for row in state.rows]


@st.composite
def tensors(draw: st.DrawFn) -> Tensors:
    shapes = st.lists(st.integers(0, 3), max_size=3)
    made = {}
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        shape, dtype = draw(shapes), draw(st.sampled_from(DTYPES))
        numbers = draw(st.lists(NUMBERS, min_size=math.prod(shape), max_size=math.prod(shape)))
        exact = torch.tensor(numbers, dtype=torch.float32).reshape(shape)
        made[name] = exact.to(dtype) if dtype.is_floating_point else exact.view(torch.int32).to(dtype)
    return made


@st.composite
def states(draw: st.DrawFn) -> State:
    clients = {}
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        model = draw(tensors())
        best = model if draw(st.booleans()) else draw(tensors())
        memories = draw(st.dictionaries(NAMES, tensors(), max_size=2))
        score = draw(st.none() | st.tuples(NUMBERS, NUMBERS))
        clients[name] = ClientState(model, draw(tensors()), memories, best, score, draw(st.integers(0, 99)))
    rows = [Row(1, name, draw(NUMBERS), draw(st.none() | NUMBERS), draw(NUMBERS), 0.1, 2, 3, 0) for name in clients]
    return State(draw(st.integers(0, 99)), draw(st.dictionaries(NAMES, tensors(), max_size=2)), clients, rows)


@pytest.fixture(scope="module")
def real() -> State:
    """A state after two rounds, with moments, memories and server tensors in it."""
    mixed = compose(SharedParameters("head", proximal=0.1), every(2, Prototypes()))
    state, _ = toy.federate([toy.client("a"), toy.client("b", width=5), toy.client("c", one_class=True)], mixed, 2)
    return state


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 1000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@given(states())
def test_any_state_survives_its_bytes(tmp_path_factory: pytest.TempPathFactory, state: State) -> None:
    file = tmp_path_factory.mktemp("state") / "arm.safetensors"
    save_state(state, file, "plan")
    found = load_state(file, "plan")
    assert found is not None
    assert content(found) == content(state)


def test_a_real_state_survives_its_bytes(real: State, tmp_path: Path) -> None:
    assert all(client.optimizer and client.exchanges["shared-parameters"] for client in real.clients.values())
    assert real.server["prototypes"]
    file = tmp_path / "arm.safetensors"
    save_state(real, file, "plan")
    assert content(load_state(file, "plan")) == content(real)
    assert [path.name for path in tmp_path.iterdir()] == ["arm.safetensors"]


def test_saving_does_not_change_the_state(real: State, tmp_path: Path) -> None:
    before = content(real)
    save_state(real, tmp_path / "arm.safetensors", "plan")
    assert content(real) == before


def test_nothing_is_pickled(real: State, tmp_path: Path) -> None:
    save_state(real, tmp_path / "arm.safetensors", "plan")
    with safe_open(tmp_path / "arm.safetensors", framework="pt") as opened:
        about = json.loads(opened.metadata()["state"])
    assert (about["plan"], about["round"], len(about["rows"])) == ("plan", 2, 6)


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "arm.safetensors", "plan") is None


def test_another_plan_is_refused(real: State, tmp_path: Path) -> None:
    file = tmp_path / "arm.safetensors"
    save_state(real, file, "one plan")
    with pytest.raises(RunFolderError, match="of another plan") as error:
        load_state(file, "another plan")
    assert error.value.file == file


@pytest.mark.parametrize("kept", [0, 7, 100, 0.3, 0.999])
def test_a_file_cut_short_is_refused(kept: float, real: State, tmp_path: Path) -> None:
    file = tmp_path / "arm.safetensors"
    save_state(real, file, "plan")
    whole = file.read_bytes()
    file.write_bytes(whole[: kept if kept >= 1 else int(kept * len(whole))])
    with pytest.raises(RunFolderError, match="not a whole checkpoint") as error:
        load_state(file, "plan")
    assert error.value.file == file


@pytest.mark.parametrize("metadata", [None, {"other": "{}"}, {"state": "{"}])
def test_tensors_that_are_no_checkpoint_are_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    file = tmp_path / "arm.safetensors"
    save_file({"x": torch.zeros(1)}, file, metadata=metadata)
    with pytest.raises(RunFolderError, match="not a whole checkpoint"):
        load_state(file, "plan")


def test_a_process_that_dies_while_writing_leaves_the_one_before(real: State, tmp_path: Path) -> None:
    file = tmp_path / "arm.safetensors"
    save_state(real, file, "plan")
    assert file.stat().st_size > 1000
    died = subprocess.run([sys.executable, "-c", DYING, str(file)], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGXFSZ, died.stderr
    assert file.with_name("arm.safetensors.part").stat().st_size == 1000
    assert content(load_state(file, "plan")) == content(real)
    real_next = State(real.round + 1, real.server, real.clients, real.rows)
    save_state(real_next, file, "plan")
    assert content(load_state(file, "plan")) == content(real_next)
    assert [path.name for path in tmp_path.iterdir()] == ["arm.safetensors"]


def test_a_full_disk_fails_the_run_and_leaves_the_one_before(real: State, tmp_path: Path) -> None:
    file = tmp_path / "arm.safetensors"
    save_state(real, file, "plan")
    with full_disk(), pytest.raises(RunError, match="cannot be written") as error:
        save_state(State(3, real.server, real.clients, real.rows), file, "plan")
    assert str(file) in str(error.value)
    assert content(load_state(file, "plan")) == content(real)
