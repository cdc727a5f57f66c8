"""Checkpoints: what is written comes back bit for bit, and nothing else is taken for it."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from whole import State, load_state, save_state

from hetfed.client import ClientState, Tensors
from hetfed.composition import compose, every
from hetfed.engines.local import Sites
from hetfed.errors import RunError, RunFolderError
from hetfed.exchanges import Prototypes, SharedParameters
from hetfed.federation import Row
from hetfed.payload import InFlight
from hetfed.results.sealed import read_sealed
from hetfed.run.checkpoint import Checkpoint

DYING = """
import resource, signal, sys
from pathlib import Path
from whole import load_state, save_state
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
state = load_state(folder, "plan")
state.round += 1
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
save_state(state, folder, "plan")
"""

SEAL = "checkpoint.json"
PARTS = ["rows.jsonl", "server-2.safetensors", "sites-2.safetensors"]
FILES = [SEAL, *PARTS]
"""What a checkpoint after two rounds consists of."""
NAMES = st.text(st.sampled_from("ab|/.: é"), min_size=1, max_size=5)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
NUMBERS = st.floats(width=32)
MAYBE = st.tuples(st.none() | NUMBERS, st.none() | NUMBERS)


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
            {number: each(model) for number, model in c.recent.items()},
        )
        for name, c in state.clients.items()
    }
    server = {label: each(tensors) for label, tensors in state.server.items()}
    return state.round, server, clients, [repr(row) for row in state.rows], state.pending


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
        recent = draw(st.dictionaries(st.integers(1, 99), tensors().filter(bool), max_size=2))
        clients[name] = ClientState(model, draw(tensors()), memories, best, score, draw(st.integers(0, 99)), recent)
    rows = [Row(1, name, draw(NUMBERS), *draw(MAYBE), draw(NUMBERS), 0.1, 2, 3, 0) for name in clients]
    number = st.integers(0, 99)
    pending = draw(st.lists(st.builds(InFlight, NAMES, NAMES, st.binary(), number, number, st.binary()), max_size=2))
    return State(draw(number), draw(st.dictionaries(NAMES, tensors(), max_size=2)), clients, rows, pending)


@pytest.fixture(scope="module")
def real() -> State:
    """A state after two rounds, with moments, memories and server tensors in it."""
    mixed = compose(SharedParameters("head", proximal=0.1), every(2, Prototypes()))
    state, _ = toy.federate([toy.client("a"), toy.client("b", width=5), toy.client("c", one_class=True)], mixed, 2)
    return state


@pytest.fixture
def folder(real: State, tmp_path: Path) -> Path:
    """Its checkpoint."""
    save_state(real, tmp_path / "arm", "plan")
    return tmp_path / "arm"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
    folder = tmp_path_factory.mktemp("state") / "arm"
    save_state(state, folder, "plan")
    found = load_state(folder, "plan")
    assert found is not None
    assert content(found) == content(state)


def test_a_real_state_survives_its_bytes(real: State, folder: Path) -> None:
    assert all(client.optimizer and client.exchanges["shared-parameters"] for client in real.clients.values())
    assert real.server["prototypes"]
    assert content(load_state(folder, "plan")) == content(real)
    assert names(folder) == FILES


def test_saving_does_not_change_the_state(real: State, tmp_path: Path) -> None:
    before = content(real)
    save_state(real, tmp_path / "arm", "plan")
    assert content(real) == before


def test_nothing_is_pickled_and_the_server_holds_nothing_of_its_clients_states(real: State, folder: Path) -> None:
    about, held = {}, {}
    for name in PARTS[1:]:
        with safe_open(folder / name, framework="pt") as opened:
            about[name] = json.loads(opened.metadata()["state"])
            held[name] = {key.split("\x1f")[0] for key in opened.keys()}  # noqa: SIM118 (not a mapping)
    _, server, sites = PARTS
    seal = read_sealed(folder / SEAL)
    assert (seal["plan"], seal["arm"], seal["round"], about[server]["round"]) == ("plan", "arm", 2, 2)
    assert len((folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    assert held == {server: {"server"}, sites: set("abc")}
    assert "clients" not in about[server]


def test_no_folder_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "arm", "plan") is None


def test_another_plan_is_refused(folder: Path) -> None:
    with pytest.raises(RunFolderError, match="of another plan") as error:
        load_state(folder, "another plan")
    assert error.value.file == folder / SEAL


def test_the_checkpoint_of_another_arm_is_refused(folder: Path, tmp_path: Path) -> None:
    """All of it copied over that of this arm, which belongs to the same plan."""
    shutil.copytree(folder, tmp_path / "alone")
    with pytest.raises(RunFolderError, match="of another arm, 'arm'") as error:
        load_state(tmp_path / "alone", "plan")
    assert error.value.file == tmp_path / "alone" / SEAL


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_another_checkpoint_is_refused(name: str, real: State, folder: Path, tmp_path: Path) -> None:
    other = replace(real, server={"prototypes": {}}, clients={"a": real.clients["a"]}, rows=real.rows[:3])
    save_state(other, tmp_path / "other", "plan")
    (tmp_path / "other" / name).replace(folder / name)
    assert_refused_until_deleted(folder / name)


def assert_refused_until_deleted(file: Path) -> None:
    """The message names the file; as it says, to delete that file is enough."""
    with pytest.raises(RunFolderError, match=r"damaged: .*Delete that file and resume") as error:
        load_state(file.parent, "plan")
    assert error.value.file == file
    file.unlink()
    assert load_state(file.parent, "plan") is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 7, 100, 0.3, 0.999])
def test_a_file_cut_short_is_refused(kept: float, name: str, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: kept if kept >= 1 else int(kept * len(whole))])
    assert_refused_until_deleted(folder / name)


@pytest.mark.parametrize("name", FILES)
def test_any_bit_that_flips_is_found(name: str, folder: Path) -> None:
    """As in a prototype, in a moment, or in a digit of a row: at twenty places of each file."""
    whole = (folder / name).read_bytes()
    for place in [*range(0, len(whole), len(whole) // 20), len(whole) - 1]:
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(RunFolderError, match="Delete that file and resume") as error:
            load_state(folder, "plan")
        assert error.value.file == folder / name
    (folder / name).write_bytes(whole)
    assert load_state(folder, "plan") is not None


def test_where_a_part_has_been_deleted_the_arm_begins_again(real: State, folder: Path) -> None:
    for name in FILES:
        save_state(real, folder, "plan")
        (folder / name).unlink()
        assert load_state(folder, "plan") is None
        save_state(real, folder, "plan")
        assert content(load_state(folder, "plan")) == content(real)
        assert names(folder) == FILES


def test_rows_are_appended_and_a_row_that_changes_later_counts_as_it_is(real: State, tmp_path: Path) -> None:
    """What a process that died has begun to append is cut off."""
    file, checkpoint = tmp_path / "arm" / "rows.jsonl", Checkpoint(tmp_path / "arm", "plan")
    state = replace(real, rows=real.rows[:3])
    checkpoint.save(state.at_server(), Sites({}, real.clients))
    first = file.read_bytes()
    file.write_bytes(first + b'{"round": 2, "cli')
    changed = [state.rows[0], replace(state.rows[1], refused=1), *real.rows[2:]]
    checkpoint.save(replace(real, round=3, rows=changed).at_server(), Sites({}, real.clients))
    assert file.read_bytes().startswith(first)
    assert len(file.read_bytes().splitlines()) == 3 + 4
    found = load_state(tmp_path / "arm", "plan")
    assert found is not None
    assert [repr(row) for row in found.rows] == [repr(row) for row in changed]


def test_rows_may_take_more_than_a_header_of_tensors_can_hold(real: State, tmp_path: Path) -> None:
    """The header of a safetensors file may have 100 MB: 361,000 rows of the usual length."""
    one = real.rows[0]
    rows = [replace(one, round=number, failed="why " * 30_000) for number in range(900)]
    state, checkpoint = replace(real, rows=rows), Checkpoint(tmp_path / "arm", "plan")
    checkpoint.save(state.at_server(), Sites({}, real.clients))
    assert (tmp_path / "arm" / "rows.jsonl").stat().st_size > 100e6
    found = load_state(tmp_path / "arm", "plan")
    assert found is not None and found.rows == rows


def test_more_tensors_than_a_header_can_name_go_to_several_files(
    real: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetfed.run.checkpoint.TENSORS_IN_A_FILE", 20)
    save_state(real, tmp_path / "arm", "plan")
    assert {"sites-2.safetensors", "sites-2-1.safetensors", "sites-2-2.safetensors"} < set(names(tmp_path / "arm"))
    assert content(load_state(tmp_path / "arm", "plan")) == content(real)


@pytest.mark.parametrize(("name", "limit"), [("sites-3.safetensors", 1000), ("server-3.safetensors", 10**6)])
def test_a_process_that_dies_while_writing_leaves_the_one_before(name: str, limit: int, real: State, tmp_path: Path) -> None:
    """In the file of the sites, or in that of the server when that of the sites has been written."""
    folder, state = tmp_path / "arm", replace(real, server={**real.server, "large": {"x": torch.zeros(10**6)}})
    save_state(state, folder, "plan")
    assert 1000 < (folder / "sites-2.safetensors").stat().st_size < 10**6 < (folder / "server-2.safetensors").stat().st_size
    command = [sys.executable, "-c", DYING, str(folder), str(limit)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    died = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert died.returncode == -signal.SIGXFSZ, died.stderr
    assert (folder / f"{name}.part").stat().st_size == limit
    assert content(load_state(folder, "plan")) == content(state)
    following = replace(state, round=3)
    save_state(following, folder, "plan")
    assert content(load_state(folder, "plan")) == content(following)
    assert names(folder) == [SEAL, "rows.jsonl", "server-3.safetensors", "sites-3.safetensors"]


def test_a_full_disk_fails_the_run_and_leaves_the_one_before(real: State, folder: Path) -> None:
    with full_disk(), pytest.raises(RunError, match="cannot be written") as error:
        save_state(replace(real, round=3), folder, "plan")
    assert str(folder / "sites-3.safetensors") in str(error.value)
    assert content(load_state(folder, "plan")) == content(real)
