"""Images. The rest of the engine uses `Images`, in `service`.

storage           `image_store` (rows, blobs, layers), `catalog`, `records`, `names`, `content`, `layers`, `leases`
formats           `references`, `platforms`, `manifests`, `documents`
registries        `registry`, with `registry_auth`, `registry_errors`, `registry_hosts`, `http_body`; `search`
creation          `pull` with `download`, `archive_load` with `archive_file`, `imports` with `fetch`, `committed`, `changes`;
                  `progress` reports to the client, `shared` runs work once for several operations
views, removal    `views`, `listing`, `removal`
"""
