"""Messages of BuildKit's protocol. `./dev proto` makes the modules from the .proto files, which name the fields that Orlop
uses; others are kept or skipped."""
