"""Inputs that lie: what a hostile publisher, or another writer, can put before agents and clients."""
