"""Where the cells of a study run: processes of this machine, or tasks of a Ray cluster."""
