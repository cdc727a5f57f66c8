"""What the report says, read from a run folder and put in order; how it looks is the business of the template."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd

from hetfed.errors import RunFolderError
from hetfed.plan_schema import plain
from hetfed.report.figures import clear, decimals, verdict
from hetfed.report.sent import Sent, by_exchange, repeated
from hetfed.results.arms import ALONE, ARMS, FEDERATED, OWN_ARMS
from hetfed.results.folder import ENVIRONMENT, LEDGER, PLAN, ROUNDS, SUMMARY
from hetfed.results.ledger import Ledger
from hetfed.results.reading import AGAIN, contents_of, table_of, text_of
from hetfed.results.tables import read_csv

if TYPE_CHECKING:
    from hetfed.results.folder import RunFolder


@dataclass(frozen=True)
class Reference:
    """A simple method and its test metric.

    >>> Reference("logistic regression", 0.81).value
    0.81
    """

    name: str
    value: float


@dataclass(frozen=True)
class ClientFacts:
    """One client: its entry in the summary, and what follows from it.

    Args:
        entry: one of the `clients` of summary.json.

    >>> client = ClientFacts({"name": "north", "alone": 0.5, "federated": 0.75, "higher_is_better": True, "kept": None})
    >>> client.gain, client.kept
    (0.25, None)
    """

    entry: Mapping[str, Any]

    @property
    def higher_is_better(self) -> bool:
        """Which way its metric goes."""
        return bool(self.entry["higher_is_better"])

    @property
    def name(self) -> str:
        """The client's name."""
        return str(self.entry["name"])

    @property
    def unit(self) -> str:
        """The unit of its metric as far as it has one."""
        return str(self.entry["unit"])

    def value(self, arm: str) -> float | None:
        """The test metric in one arm, None where it is undefined.

        Args:
            arm: "alone", "federated", "finetuned" or "pooled".
        """
        value: float | None = self.entry[arm]
        return value

    def interval(self, arm: str) -> Mapping[str, Any] | None:
        """The 95 % interval of that value: `low`, `high`, and `unsure` where there is none."""
        # A folder of an earlier version has none.
        found: Mapping[str, Any] | None = self.entry.get("intervals", {}).get(arm)
        return found

    def chance(self, arm: str) -> Mapping[str, Any] | None:
        """What the arm gains over training alone: `value`, positive where it gains, and its interval; None where neither is
        known."""
        found: Mapping[str, Any] | None = self.entry.get("gains", {}).get(arm)
        return found

    @cached_property
    def best(self) -> str | None:
        """The arm that the report marks: the best on test data, where it differs from training alone beyond chance.

        Of training alone that is asked of the federation. It is no advice on which model to keep.
        """
        values = {arm: value for arm in OWN_ARMS if (value := self.value(arm)) is not None}
        if not values:
            return None
        best = (max if self.higher_is_better else min)(values, key=lambda arm: values[arm])
        return best if clear(self.chance(FEDERATED if best == ALONE else best)) else None

    @cached_property
    def gain(self) -> float | None:
        """How much better the client does federated than alone, positive where it gains; None where that is undefined."""
        alone, federated = self.value("alone"), self.value("federated")
        if alone is None or federated is None:
            return None
        return federated - alone if self.higher_is_better else alone - federated

    @property
    def kept(self) -> str | None:
        """What the client keeps, in words; None where no model has been judged."""
        kept: Mapping[str, Any] | None = self.entry["kept"]
        return None if kept is None else str(kept["arm"])

    @property
    def kept_value(self) -> float | None:
        """The test metric of what the client keeps."""
        kept: Mapping[str, Any] | None = self.entry["kept"]
        value: float | None = None if kept is None else kept["value"]
        return value

    @cached_property
    def reference(self) -> Reference | None:
        """The best of the simple methods, by the client's own metric.

        A reference is, for instance, the last reading of a sensor, or a regression on a hospital's own table.
        """
        metric = self.entry["metric"]
        found = [Reference(n, v) for n, values in self.entry["references"].items() if (v := values.get(metric)) is not None]
        best = max if self.higher_is_better else min
        return best(found, key=lambda reference: reference.value, default=None)

    @cached_property
    def behind_reference(self) -> bool:
        """Whether a simple method does better than the federated model beyond chance."""
        return any(verdict(gain) == "worse" for gain in self.entry.get("ahead_of_references", {}).values())

    def row(self, metric: str) -> list[float | None]:
        """One metric in all arms, then of all references, in the order of `metrics`' tables."""
        tables = [*(self.entry["metrics"][arm] for arm in ARMS), *self.entry["references"].values()]
        return [table.get(metric) for table in tables]

    @cached_property
    def metrics(self) -> list[str]:
        """The names of all metrics of all arms and references, the client's own first."""
        tables = [*self.entry["metrics"].values(), *self.entry["references"].values()]
        # dict, not set: the order in which they first occur is the order of the table.
        return list(dict.fromkeys([self.entry["metric"], *(name for table in tables for name in table)]))


@dataclass(frozen=True)
class Means:
    """Means over the clients that have a value both alone and federated; an arm that lacks one of them has none.

    Args:
        clients: how many the means are over.
        values: by arm.
        kept: the mean of the models that the clients keep.
    """

    clients: int
    values: Mapping[str, float | None]
    kept: float | None


@dataclass(frozen=True)
class Facts:
    """Everything that the report of one run says. `rounds` is rounds.csv, `sent` the ledger by exchange and client.

    `repeated` counts the uploads of rounds that were run again after an interruption.

    Args:
        summary: summary.json as it is.
        clients: in the order of the plan.
        rounds: a row per arm, round and client.
        sent: what each client sent by each exchange.
        repeated: uploads that were made twice.
        environment: environment.json: versions and machine.
        plan: the resolved plan in TOML.
        digest: of the plan.
    """

    summary: Mapping[str, Any]
    clients: Sequence[ClientFacts]
    rounds: pd.DataFrame
    sent: Sequence[Sent]
    repeated: int
    environment: Mapping[str, Any]
    plan: str
    digest: str

    @cached_property
    def judged(self) -> list[ClientFacts]:
        """The clients whose gain is defined."""
        return [client for client in self.clients if client.gain is not None]

    @cached_property
    def one_metric(self) -> bool:
        """Whether all clients are judged by the same metric in the same unit: only then does a mean over them say anything.

        A mean over an AUROC and an error in km/h would be a number without a meaning.
        """
        return len({(client.entry["metric"], client.unit) for client in self.clients}) == 1

    @cached_property
    def references(self) -> list[str]:
        """The names of the simple methods of all clients."""
        return list(dict.fromkeys(name for client in self.clients for name in client.entry["references"]))

    @cached_property
    def places(self) -> int:
        """How many decimals the metrics of the clients have."""
        return max(decimals(client.value(arm) for arm in ARMS) for client in self.clients)

    @cached_property
    def direction(self) -> str:
        """Which way is better, in words."""
        if len({client.higher_is_better for client in self.clients}) > 1:
            return "higher or lower is better, as the metric goes"
        # The first of the plan's clients stands for all: they agree, as has just been asked.
        return "higher is better" if self.clients[0].higher_is_better else "lower is better"

    @cached_property
    def means(self) -> Means:
        """The mean of each arm."""
        values = {arm: [client.value(arm) for client in self.judged] for arm in ARMS}
        usable = self.one_metric and bool(self.judged)
        known = {arm: [v for v in found if v is not None] for arm, found in values.items()}
        # Only clients that are judged in every arm: means over different clients would not compare.
        complete = {arm: usable and len(known[arm]) == len(self.judged) for arm in ARMS}
        kept = [client.kept_value for client in self.judged if client.kept_value is not None]
        means = {arm: fmean(known[arm]) if complete[arm] else None for arm in ARMS}
        return Means(len(self.judged), means, fmean(kept) if usable and len(kept) == len(self.judged) else None)

    @cached_property
    def shared(self) -> bool:
        """Whether the server accepted anything from one client or more, and there was another."""
        # By accepted uploads, not by the composition: a federation whose every upload was refused has shared nothing.
        return len(self.clients) > 1 and any(sent.uploads > sum(map(len, sent.refused.values())) for sent in self.sent)

    @cached_property
    def travelled(self) -> pd.DataFrame:
        """Bytes up and down and uploads refused in the federation, by client.

        Returns:
            A row per client, in the order of rounds.csv; columns `bytes_up`, `bytes_down`, `refused`.
        """
        federated = self.rounds[self.rounds["arm"] == "federated"]
        return federated.groupby("client", sort=False)[["bytes_up", "bytes_down", "refused"]].sum()


def read_facts(folder: RunFolder) -> Facts:
    """The facts of a run that has ended.

    Raises:
        RunFolderError: there is none, or a part of it has been taken away or is damaged.
    """
    summary, path = folder.summary(), folder.path
    for name in (ROUNDS, ENVIRONMENT, PLAN):
        if not (path / name).is_file():
            raise RunFolderError("the run is not whole", file=path / name, remedy=AGAIN)
    ledger = Ledger(path / LEDGER).entries()
    with contents_of(path / LEDGER):
        sent, again = by_exchange(ledger), repeated(ledger)
    with contents_of(path / SUMMARY):
        clients = [ClientFacts(entry) for entry in summary["clients"]]
        # Names become those of files: that of a client leads nowhere else.
        for client in clients:
            plain(client.name)
    # A client may be called "NA" or "007".
    exactly: dict[str, Any] = {"dtype": {"client": str}, "keep_default_na": False, "na_values": {"validation": [""]}}
    rounds = read_csv(path / ROUNDS, **exactly)
    # Without its first line, the digest.
    plan = text_of(path / PLAN).partition("\n")[2]
    with contents_of(path / PLAN):
        tomllib.loads(plan)
    return Facts(summary, clients, rounds, sent, again, table_of(path / ENVIRONMENT), plan, folder.plan_digest())
