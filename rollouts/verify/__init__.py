"""Re-simulation of a run's claims."""
