"""Files of artifacts by URL: an fsspec file system for `ocikit://HOST/REPOSITORY:TAG/PATH`."""
