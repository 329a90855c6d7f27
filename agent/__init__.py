"""The worker side: turns one delivered message into one container and one truthful outcome."""
