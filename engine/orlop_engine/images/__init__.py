"""The images room: what `Images`, in `service`, says and does.

what there is     `stock` (rows, blobs, layers), `catalog`, `records`, `content`, `layers`, `leases`
names and papers  `references`, `platforms`, `manifests`, `documents`
registries        `registry`, with `registry_auth`, `registry_errors`, `registry_hosts`, `http_body`; `search`
images come       `pull` with `download`, `archive_load` with `archive_file`, `imports` with `fetch`, `committed`, `changes`;
                  `progress` tells of it, `shared` does once what several wait for
shown, removed    `views`, `listing`, `removal`
"""
