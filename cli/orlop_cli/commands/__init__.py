"""One module for each command, or for a few similar commands. `orlop_cli._groups` imports a module when one of its commands
is called; `orlop_cli._table` contains the table of all commands."""
