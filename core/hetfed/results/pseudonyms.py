"""Pseudonyms: other names for patients and days in a table that leaves a run."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable


def pseudonyms(names: Iterable[str]) -> list[str]:
    """A pseudonym for each name, the same for the same name, under a key that is drawn anew and written nowhere.

    Without the key nobody finds the name by trying all that there may be, as a plain digest would let them.

    >>> one, other, again = pseudonyms(["TCGA-01", "TCGA-02", "TCGA-01"])
    >>> one == again != other, len(one)
    (True, 16)
    """
    key = secrets.token_bytes(32)
    return [hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:16] for name in names]
