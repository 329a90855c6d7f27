"""The command line: one file a noun.

Modules here import what is heavy inside functions, so that `launch --help` is fast.
"""
