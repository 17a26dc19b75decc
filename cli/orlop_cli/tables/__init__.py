"""The output of lists: tables, templates of --format, numbers of `stats`."""
