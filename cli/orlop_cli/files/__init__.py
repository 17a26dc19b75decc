"""Local files: packing, unpacking, output files; the path rules of `cp`."""
