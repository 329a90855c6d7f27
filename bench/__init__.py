"""Measurements on real parts: one file a question, each figure beside a floor from the same run."""
