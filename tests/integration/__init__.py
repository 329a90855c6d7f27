"""Tests against the real nats-server and the real Docker Engine."""
