"""The command line `cl-mlm`."""
