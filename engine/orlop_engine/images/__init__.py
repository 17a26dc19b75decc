"""Images. The rest of the engine uses `Images`, in `service`.

storage           `image_store` (rows, blobs, layers), `catalog`, `records`, `meanings`, `names`, `content`, `disk_space`,
                  `layers`, `leases`
formats           `references`, `platforms`, `manifests`, `documents`
adopted layers    `tar_split`: the tar of a layer that has no blob
registries        `registry_session` (connections, authentication), `registry` and `registry_push` (requests), with
                  `registry_auth`, `registry_errors`, `registry_tls`, `destinations`, `http_body`; `registry_hosts` and
                  `hosts_file` find `endpoints`, `connector` opens them, `sources` uses them in order; `transfers` contains
                  the limits and clients that all operations share; `inspection`, `search`
creation          `pull` with `download`, `archive_load` with `archive_receive`, `archive_file` and `archive_index`,
                  `imports` with `fetch`, `committed`, `changes`; `progress` reports to the client, `shared` runs work once
                  for several operations
push and save     `outgoing`: manifest, descriptors and blobs of an image that is pushed or saved; `archive_save` with
                  `archive_layout`; `push` with `upload`, `compression` and `blob_repositories`
lists, removal    `details`, `image_manifests`, `image_usage`, `listing`, `removal`, `remover`
"""
