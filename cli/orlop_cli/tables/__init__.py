"""Output of listings: tables, templates of --format, figures of `stats`."""
