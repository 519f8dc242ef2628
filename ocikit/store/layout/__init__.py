"""The image layout on disk: index.json, blobs, garbage collection and archives."""
