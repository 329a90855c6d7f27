"""The only place in this package that touches a vendor: the container engine, the host."""
