"""Files on this side: packed, unpacked, named for output; the rules of `cp`."""
