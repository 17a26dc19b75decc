"""Adoption: Orlop uses the data of a stopped dockerd in place, and can return the data to dockerd.

reading    `bolt`, `files`; `docker_root` with `overlay2`, or `containerd` and `containerd_images`, into the values of
           `inventory`
deciding   `plan` with `containers` and `networks`: rows, and reasons for objects that are not adopted; `report` shows them
doing      `adoption`, `give_back`; `links` and `moving` for files, `adopted` for the row that says what was done
hooks      `plugin` and `cli`: `orlopd --adopt`, `orlop system adopt`, `orlop system give-back`; `service` at each start
"""
