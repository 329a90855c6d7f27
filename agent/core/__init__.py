"""What the agent decides: pure functions over frozen values."""
