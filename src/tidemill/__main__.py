"""`python -m tidemill` is the command `tidemill`."""

from tidemill.cli.start import main

if __name__ == "__main__":
    main()
