"""One module per command, or per few that belong together; imported by orlop_cli._groups when called."""
