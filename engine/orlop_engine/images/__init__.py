"""Images. The rest of the engine uses `Images`, in `service`.

All modules of this package use these words:

image             a configuration and its layers, for one platform; its ID is the digest of the configuration
manifest          a document that describes one image: it lists the digests of the image's configuration and layers
index             Docker's "manifest list": a document that lists the manifests of images, one for each platform, and the
                  manifests of attestations
attestation       a statement about an image, such as a bill of materials, that is stored next to the image
name, reference   a repository with a tag or a digest. A name refers to one image, or to several images for different
                  platforms
content           blobs and unpacked layers. A blob is a file in the content store: a configuration, a manifest, an index, an
                  attestation, or the tar of a layer
row               an image or a name in the database
lease             an object that protects content from garbage collection while an operation runs
adopted           taken over from the data root of a dockerd; adopted layers have no blobs
restricted        a client is restricted if a role or labels limit its access

The modules:

storage           `image_store` (rows, blobs, layers), `catalog`, `records`, `meanings`, `names`, `content`, `disk_space`,
                  `layers`, `leases`
formats           `references`, `platforms`, `manifests`, `documents`
adopted layers    `tar_split`: the tar of a layer that has no blob
registries        `registry_session` (connections, authentication), `registry` and `registry_push` (requests), with
                  `registry_auth`, `registry_errors`, `registry_tls`, `destinations`, `http_body`; `registry_hosts` and
                  `hosts_file` find `endpoints`, `connector` connects to them, `sources` uses them in order; `transfers`
                  contains the limits and clients that all operations share; `inspection`, `search`
creation          `pull` with `download`, `archive_load` with `archive_receive`, `archive_file` and `archive_index`,
                  `imports` with `fetch`, `committed`, `changes`; `progress` reports to the client, `shared` runs work once
                  for several operations
push and save     `outgoing`: manifest, descriptors and blobs of an image that is pushed or saved; `archive_save` with
                  `archive_layout`; `push` with `upload`, `compression` and `blob_repositories`
lists, removal    `details`, `image_manifests`, `image_usage`, `listing`, `removal`, `remover`
"""
