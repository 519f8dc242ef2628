"""Registry storage: blobs, uploads, metadata, garbage collection, verification."""
