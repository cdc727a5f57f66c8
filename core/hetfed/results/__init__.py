"""Results: what a run or a comparison leaves behind, and what it comes to. Below `run` and `report`, which do not know each other."""
