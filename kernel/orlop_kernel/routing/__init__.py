"""From an HTTP request to a handler of a front end, and Go's way of reading what clients send."""
