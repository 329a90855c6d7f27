"""Working stand-ins for the outside world, held to their ports by the suites in `tests/contract/`."""
