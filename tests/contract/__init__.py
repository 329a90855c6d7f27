"""One suite a port, run on the fake and on the real thing, so that the fake can't lie."""
