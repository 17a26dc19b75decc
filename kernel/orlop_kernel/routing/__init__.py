"""Routes HTTP requests to the handlers of front ends, and decodes input the way Go does."""
