"""What of a run lies on disk: states, checkpoints, its folder, and under which versions it was made."""
