"""`launch doctor` on real parts, healthy and broken."""
