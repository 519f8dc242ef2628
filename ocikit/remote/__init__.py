"""The client of the OCI distribution specification: registries, repositories, uploads, downloads, mirrors."""
