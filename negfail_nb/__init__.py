"""Learning from failed agent trajectories, and long context against retrieval."""
