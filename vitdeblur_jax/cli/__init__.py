"""The command line: argument parsing and exit status."""
