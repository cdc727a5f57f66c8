"""Results: what a run or a comparison leaves behind, and what it comes to. `run` and `report` stand on it, side by side.

The files of a run folder are described in docs/run-folder.md.
"""
