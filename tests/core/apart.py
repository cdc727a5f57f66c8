"""Every site in a process of its own, and the server in another: they share nothing but bytes in pipes.

A site holds its data, its model and its state. The server's process starts the sites, gets their profiles, enrols them, and
runs rounds; it holds no client, and forbids itself to make one. Both learn the other's messages from frames: JSON, then
safetensors bytes.

    python apart.py server ALGORITHM ...     prints, for each algorithm, what came of it as one line of JSON
    python apart.py site NAME                is started by the server
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
import toy
from test_conformance import ROWS

from hetfed.client import Client, ClientState, Tensors, new_state
from hetfed.composition import Composition, Enrolment, enrol
from hetfed.data import Examples
from hetfed.engines.local import Failure, Order, Reply
from hetfed.evaluation import Outcome
from hetfed.federation import Federation
from hetfed.participation import Participation
from hetfed.payload import Payload, Upload
from hetfed.plan import named_algorithm
from hetfed.profile import Profile
from hetfed.rounds import ask, finalize, init, run_round
from hetfed.run.checkpoint import states_to_tensors
from hetfed.turn import Job, Report, Round, Stage, take_turn

NAMES, ROUNDS = "abc", 4


@dataclass
class Pipe:
    """Frames over two streams: a JSON header, and parts of bytes by name."""

    incoming: BinaryIO
    outgoing: BinaryIO

    def send(self, header: Mapping[str, Any], parts: Mapping[str, bytes] | None = None) -> None:
        """One frame."""
        parts = parts or {}
        text = json.dumps({**header, "parts": {name: len(content) for name, content in parts.items()}}).encode()
        self.outgoing.write(struct.pack(">Q", len(text)) + text + b"".join(parts.values()))
        self.outgoing.flush()

    def receive(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """The next frame, None at the end."""
        size = self.incoming.read(8)
        if len(size) < 8:
            return None
        header = json.loads(self.incoming.read(struct.unpack(">Q", size)[0]))
        return header, {name: self.incoming.read(length) for name, length in header.pop("parts").items()}


def composition_of(algorithm: str) -> Composition:
    """What both sides know from the plan."""
    return named_algorithm(algorithm, ROWS[algorithm].settings).over(ROUNDS)


def profile_of(text: str) -> Profile:
    """A profile that arrived, with the code that every process has."""
    from conformance import common

    return Profile.from_json(text, toy.net, common)


def settle(algorithm: str, texts: Iterable[str]) -> Enrolment:
    """Each side comes to the same from the same profiles."""
    return enrol(composition_of(algorithm), [profile_of(text) for text in texts])


class Site:
    """One client's process."""

    def __init__(self, name: str, pipe: Pipe) -> None:
        self.name, self.pipe = name, pipe
        self.client: Client
        self.state: ClientState
        self.federation: Federation

    def serve(self) -> None:
        """Answer until there is nothing more to answer."""
        while (frame := self.pipe.receive()) is not None:
            header, parts = frame
            getattr(self, header.pop("do"))(parts, **header)

    def join(self, parts: Mapping[str, bytes], algorithm: str) -> None:
        """Make the client, and tell its profile."""
        from conformance import clients

        # Of the three clients only its own comes into being: the others' names and widths are all that the row says of them.
        self.client = next(client for client in clients(ROWS[algorithm], only=self.name))
        self.pipe.send({"profile": self.client.profile.to_json()})

    def settle(self, parts: Mapping[str, bytes], algorithm: str, profiles: list[str]) -> None:
        """Take over what was settled; hand over the public inputs where the server works on them."""
        enrolment = settle(algorithm, profiles)
        self.federation = Federation.of(enrolment, ROUNDS, 0)
        self.client = self.client.settled(self.federation.peers[self.name])
        self.state = new_state(self.client, 0)
        wanted = any(step.exchange.public_at_server for step in enrolment.composition.of(self.name))
        public = self.client.public if wanted else None
        self.pipe.send(
            {"ids": [] if public is None else list(public.ids)}, {} if public is None else {"inputs": _bytes(public)}
        )

    def turn(self, parts: Mapping[str, bytes], number: int, stage: Stage) -> None:
        """Take a turn: payloads and figures come of it."""
        turn = take_turn(Job(self.client, self.state, parts), replace(self.federation.round(number), stage=stage))
        self.state = turn.state
        self.pipe.send({"report": asdict(turn.report)}, turn.outbox)

    def digest(self, parts: Mapping[str, bytes]) -> None:
        """What it has come to, as a figure that tells nothing but whether it is the same."""
        self.pipe.send({"digest": digest_of({self.name: self.state})})


def _bytes(public: Examples) -> bytes:
    return Payload(public.inputs).encoded


def digest_of(states: Mapping[str, ClientState]) -> str:
    """Of every tensor of a client's state."""
    tensors, about = states_to_tensors(states)
    return digest_of_tensors(tensors, about)


def digest_of_tensors(tensors: Tensors, about: Any = None) -> str:
    """Of names and bytes."""
    content = b"".join(name.encode() + tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(content + json.dumps(about, sort_keys=True).encode()).hexdigest()


class Server:
    """The server's process: sites by name are pipes, and nothing else."""

    def __init__(self, sites: Mapping[str, Pipe]) -> None:
        self.sites = sites

    def ask(
        self, name: str, parts: Mapping[str, bytes] | None = None, **header: Any
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """One question, one answer."""
        self.sites[name].send(header, parts)
        answer = self.sites[name].receive()
        assert answer is not None, f"{name} is gone"
        return answer

    def __call__(self, orders: Iterable[Order], this: Round) -> Iterator[tuple[str, Reply | Failure]]:
        """The engine."""
        for order in orders:
            header, outbox = self.ask(order.client, order.inbox, do="turn", number=this.number, stage=this.stage)
            report = header["report"]
            outcome = report["outcome"] and Outcome(**report["outcome"])
            yield order.client, Reply(outbox, Report(**{**report, "outcome": outcome}))

    def run(self, algorithm: str) -> dict[str, Any]:
        """One algorithm to its end."""
        profiles = [self.ask(name, do="join", algorithm=algorithm)[0]["profile"] for name in self.sites]
        public = {}
        for name in self.sites:
            header, parts = self.ask(name, do="settle", algorithm=algorithm, profiles=profiles)
            if parts:
                inputs = Payload.decode(parts["inputs"]).tensors
                public[name] = Examples(inputs, torch.full((len(header["ids"]),), -1), header["ids"])
        enrolment, tolerant = settle(algorithm, profiles), Participation(tolerate_failures=True)
        federation = Federation.of(enrolment, ROUNDS, 0, participation=tolerant, public=public)
        uploads: list[Upload] = []
        state = init(federation)
        for _ in range(ROUNDS):
            state = run_round(federation, state, self, uploads.append)
        state = finalize(federation, state, self, uploads.append)
        outcomes = {name: asdict(report.outcome) for name, report in ask(federation, self, "test").items()}
        server = {f"{label}/{key}": tensor for label, held in state.server.items() for key, tensor in held.items()}
        return {
            "algorithm": algorithm,
            "clients": {name: self.ask(name, do="digest")[0]["digest"] for name in self.sites},
            "server": digest_of_tensors(server),
            "outcomes": outcomes,
            "rows": [{**asdict(row), "seconds": 0} for row in state.rows],
            "refused": [upload.refused for upload in uploads if upload.refused],
        }


def forbid_data() -> list[str]:
    """From now on this process makes no client and no examples, and notes the files that it opens."""

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("the server's process holds no data")

    opened: list[str] = []
    toy.examples = toy.client = refuse
    Client.__post_init__ = refuse  # type: ignore[attr-defined]
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    return opened


def start_site(name: str, script: Path = Path(__file__)) -> subprocess.Popen[bytes]:
    """A site's process."""
    words = [sys.executable, str(script), "site", name]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def main(role: str, *names: str) -> None:
    """One process."""
    torch.set_num_threads(1)
    if role == "site":
        # Number 1 is for frames alone: what a library prints goes elsewhere.
        frames = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        Site(names[0], Pipe(sys.stdin.buffer, frames)).serve()
        return
    processes = {name: start_site(name) for name in NAMES}
    opened = forbid_data()
    server = Server({name: Pipe(process.stdout, process.stdin) for name, process in processes.items()})
    for algorithm in names:
        print(json.dumps(server.run(algorithm)), flush=True)  # noqa: T201
    print(json.dumps({"opened": opened}), flush=True)  # noqa: T201
    for process in processes.values():
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
