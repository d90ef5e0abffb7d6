"""What finished runs say: summaries, tables, figures, comparisons. Imports no torch."""
