"""What a run would take: tokens, steps, memory, time, disk."""
