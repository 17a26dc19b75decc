"""Messages of BuildKit's protocol. `./dev proto` makes the modules from the .proto files. These files contain only the
fields that Orlop uses."""
