"""How a policy fares under shifts: a clean run and runs of axes and levels on the same chains."""
