"""`launch doctor`: looks at every part of an installation, changes nothing, and says what is wrong and what to do.

Invariant: a check ends within its limit, and whatever it meets becomes a finding, so that no check hides another.
"""
