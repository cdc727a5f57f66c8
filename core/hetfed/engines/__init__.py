"""Engines decide only where turns run.

An engine is one callable, `engines.local.Engine`. Whatever it does, the bits of a run stay the same: chance is derived from
names, and the server puts what arrives in order.
"""
