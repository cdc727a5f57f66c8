"""A run: from a plan to a folder that a colleague can be sent."""
