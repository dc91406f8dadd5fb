"""LeRobot's policy folders."""
