"""Who holds which record: what one client tests on must not be what another one learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hetfed.errors import PlanError

if TYPE_CHECKING:
    from hetfed.client import Client

PUBLIC = "the public inputs"


@dataclass(frozen=True)
class Holding:
    """The records of a client, and by what each would be known again if another client held it.

    It stays at its site, and is looked at only where all clients are in one process.

    Args:
        records: by the record's own name, what identifies it wherever it stands: the name that a registry gave a patient, the
            digest of an image. The name of a data set or of a client identifies nothing.
        what: the records in words, several of them.
        span: how time is shared out, where several clients may hold a record as long as they share it out alike.
        remedy: what to do where somebody else holds some of them.

    >>> Holding({"p1": frozenset({"TCGA: p1"})}).what
    'records'
    """

    records: Mapping[str, frozenset[str]] = field(default_factory=dict)
    what: str = "records"
    span: str = ""
    remedy: str = "Let each record stand at one client."


def check_apart(clients: Sequence[Client]) -> None:
    """Check that no two clients hold the same record, and that none of them is public.

    Raises:
        PlanError: two do; it names both, and how many records.
    """
    owners: dict[str, tuple[str, str]] = {}
    for client in clients:
        _claim(PUBLIC, client.public_holding, owners)
    for client in clients:
        try:
            _claim(f"client {client.name!r}", client.holding, owners)
        except PlanError as error:
            raise error.seen_from(key=f"client {client.name!r}.data") from error


def _claim(owner: str, holding: Holding, owners: dict[str, tuple[str, str]]) -> None:
    """Note that `owner` holds these records; raise `PlanError` where somebody else holds some of them."""
    theirs: Counter[str] = Counter()
    for identities in holding.records.values():
        others = {owners[one] for one in identities if one in owners}
        theirs.update({other for other, span in others if other != owner and not (span and span == holding.span)})
    for other, count in theirs.most_common(1):
        shared = f"{count} of its {len(holding.records)} {holding.what} are also those of {other}"
        raise PlanError(f"{shared}, and one would learn from what the other tests on", remedy=holding.remedy)
    for identities in holding.records.values():
        for one in identities:
            owners.setdefault(one, (owner, holding.span))
