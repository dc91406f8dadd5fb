"""The rollout engine: chains of five subtasks, from a policy and a simulator to records."""
