"""Kept models: the model that a client keeps is a folder of its own, and predicts without anybody's training data."""

from hetfed.kept.description import Architecture, Description

__all__ = ["Architecture", "Description"]
