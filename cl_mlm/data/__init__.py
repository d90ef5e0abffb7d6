"""From files to a stream that may be trained on."""
