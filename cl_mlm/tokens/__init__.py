"""From rows to batches: encoding, padding, batching, windows, packing."""
