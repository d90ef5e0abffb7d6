"""Loading, growing, saving and generating with transformers models."""
