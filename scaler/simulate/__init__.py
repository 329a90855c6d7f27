"""Replays a trace of jobs through the scaler's own decision, and through what others decide, on one simulated cloud.

Owns no policy of ours: `scaler.core.plan.plan` is the very function that the live loop calls. No clock, no asyncio;
randomness comes from a given seed only, so the same seed gives the same table.
"""
