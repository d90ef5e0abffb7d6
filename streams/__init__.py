"""Task streams, one file for each family; the name of the file is the name in a config."""
