"""Faults on real processes: agents, servers and engines that die, freeze, or can't reach each other."""
