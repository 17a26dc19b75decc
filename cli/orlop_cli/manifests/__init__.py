"""Manifest lists of `orlop manifest`: docker's files below ~/.docker/manifests, and requests to registries."""
