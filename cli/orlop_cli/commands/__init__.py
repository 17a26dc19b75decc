"""One module per command or small group of commands; imported by orlop_cli._groups when called."""
