"""Engines decide only where turns run."""
