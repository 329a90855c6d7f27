"""Tests of one module each, in memory."""
