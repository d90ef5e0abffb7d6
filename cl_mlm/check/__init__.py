"""Looks at runs and trains nothing: what would one take (tokens, steps, memory, time, disk), is what it left whole."""
