"""Why subtasks failed: recorded chains, simulated again and looked at."""
