"""The providers: the only place in this package that starts and stops machines."""
