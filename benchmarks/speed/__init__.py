"""The speed comparison: this platform's training and evaluation against other ways to do the same work."""
