"""One run, from refusal to summary, and its folder."""
