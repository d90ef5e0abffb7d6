"""What several strategies share: buffers, per-example gradients."""
