"""The real commands as subprocesses, on a real nats-server and a real Docker Engine."""
