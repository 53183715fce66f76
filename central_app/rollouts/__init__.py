"""Central: rollouts."""
