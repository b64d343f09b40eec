"""Container images without Docker: what `hack/image` makes.

An image is an archive that is an OCI layout and a docker archive at once, so that `ctr images import`, `docker load`,
`kind load image-archive` and `skopeo copy` take it. It is made of layers, each from a folder that a recipe fills; a
layer is kept under the hash of all that goes into it, and the same input gives the same digest.

`catalog` names the images; `python_layers` and `program_layers` fill folders; `layer` turns a folder into a tar file;
`archive` puts layers together.
"""
