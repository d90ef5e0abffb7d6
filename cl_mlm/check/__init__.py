"""Estimates what a run would take before it starts: tokens, steps, memory, time and disk."""
