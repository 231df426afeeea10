"""Modes and draws of a pass: evaluating, dropout and its masks, steps computed again, a graph being made."""
