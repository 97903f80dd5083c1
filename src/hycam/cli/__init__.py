"""The command line: one file per verb, which parses its arguments and calls the package."""
