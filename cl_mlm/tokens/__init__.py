"""From rows to batches: encoding, packing, windows, padding, batching, and losses over tokens and classes."""
