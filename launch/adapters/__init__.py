"""The only place in this package that touches a vendor: NATS, the system clock."""
