"""`python -m cl_mlm` is `cl-mlm`."""

from cl_mlm.cli.app import main

if __name__ == "__main__":
    main()
