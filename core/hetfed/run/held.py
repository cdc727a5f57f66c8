"""What a client holds, in a digest: a run that is resumed goes on with the data that it was started with."""

from __future__ import annotations

import hashlib

from hetfed.client import Client


def digest_of(client: Client) -> str:
    """The SHA-256 of all that a client holds: inputs, targets and names of every example of every split, in their order.

    >>> from hetfed.data import ClientData
    >>> from hetfed.tasks import Classification
    >>> from torch import nn
    >>> data = ClientData.of({"x": [[0.0], [1.0], [2.0], [3.0], [4.0]]}, [0, 1, 0, 1, 0])
    >>> len(digest_of(Client("north", data, Classification(("no", "yes")), lambda spec: nn.Linear(1, 2))))
    64
    """
    found = hashlib.sha256()
    parts = {"train": client.data.train, "validation": client.data.validation, "test": client.data.test}
    for part, examples in (parts if client.public is None else {**parts, "public": client.public}).items():
        found.update("\0".join(examples.ids).encode())
        for name, tensor in (
            *sorted(examples.inputs.items()),
            ("target", examples.target),
            *sorted(examples.further.items()),
        ):
            found.update(f"{part} {name} {tensor.dtype} {list(tensor.shape)}".encode())
            # The array itself and not its bytes, which would be a copy.
            found.update(tensor.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()
