"""The WSGI application: routes, endpoints, requests and error responses."""
