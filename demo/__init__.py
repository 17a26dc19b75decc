"""`./dev demo`: shows the main use of a container engine, from an empty machine to a web page that nginx serves, and cleans
up."""
