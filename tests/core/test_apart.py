"""Sites in processes of their own end with the same bits as in one, and the server's process never sees what they hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from apart import ROUNDS, digest_of, digest_of_tensors
from conformance import clients
from test_conformance import ROWS
from whole import Federation, enrol, finalize, init, run_round

from hetfed.engines.local import Sites
from hetfed.participation import Participation
from hetfed.plan import named_algorithm
from hetfed.rounds import ask

SCRIPT = Path(__file__).parent / "apart.py"
CODE = (sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent.parent), *filter(None, sys.path))
HARMLESS = (*CODE, "/proc", "/sys", "/dev", "/usr", "/etc")
"""Where code and the system lie: the server's process may read there."""


@pytest.fixture(scope="module")
def lines() -> Iterator[dict[str, Any]]:
    """What the server's process said of every algorithm, by its name, and what it opened."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "server", *ROWS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    yield {line.get("algorithm", "end"): line for line in said}


@pytest.mark.parametrize("algorithm", ROWS)
def test_sites_apart_end_with_the_same_bits(algorithm: str, lines: dict[str, Any]) -> None:
    row, found = ROWS[algorithm], lines[algorithm]
    enrolment = enrol(named_algorithm(algorithm, row.settings).over(ROUNDS), clients(row))
    tolerant = Participation(tolerate_failures=True)
    federation = Federation.of(enrolment.clients, enrolment.composition, ROUNDS, 0, participation=tolerant)
    state = init(federation)
    for _ in range(ROUNDS):
        state = run_round(federation, state)
    state = finalize(federation, state)
    server = {f"{label}/{key}": tensor for label, held in state.server.items() for key, tensor in held.items()}
    assert found["clients"] == {name: digest_of({name: client}) for name, client in state.clients.items()}
    assert found["server"] == digest_of_tensors(server)
    assert found["rows"] == json.loads(json.dumps([{**asdict(row), "seconds": 0} for row in state.rows]))
    assert found["refused"] == []
    sites = Sites({client.name: client for client in federation.clients}, state.clients)
    tested = {name: asdict(report.outcome) for name, report in ask(federation.server, sites, "test").items()}
    assert found["outcomes"] == json.loads(json.dumps(tested))


def test_the_server_opens_no_data_file(lines: dict[str, Any]) -> None:
    opened = [file for file in lines["end"]["opened"] if not file.startswith(HARMLESS) and not file.isdigit()]
    assert opened == []
