"""Network settings: timeouts, proxies, mirrors, registries.conf."""
