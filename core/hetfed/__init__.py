"""hetfed: federated learning for participants whose models differ.

A federation is clients and exchanges. A client owns data, a model of its own and its own way of training it; an exchange
is one kind of knowledge that clients share, with how it is merged; an algorithm is a composition of exchanges.
"""

__version__ = "0.1.0"
