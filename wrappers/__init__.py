"""How a policy meets the simulator: the policy protocol, adapters, checkpoint loaders."""
