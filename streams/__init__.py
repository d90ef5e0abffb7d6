"""Task streams, one file a family; the file name is the name in a config."""
