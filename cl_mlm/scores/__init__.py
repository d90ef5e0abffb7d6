"""Turns predictions and references into scores, one module for each kind of prediction."""
