"""Launch: from the text of a plan to an ended run or comparison with its report, in one process or several."""
