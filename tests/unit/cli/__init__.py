"""The command line's parts, and what it stands on, without a broker."""
