"""What listings print: tables, templates of --format, figures of `stats`."""
