"""A scripted policy that solves the benchmark from privileged state."""
