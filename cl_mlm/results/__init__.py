"""Reads finished runs and shows them: summaries, tables, figures, comparisons. Imports no torch."""
