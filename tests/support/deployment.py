"""The commands of the deployment files in docs/deploy."""

from collections.abc import Iterator
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "docs/deploy"


def services() -> dict:
    """Return the services of the compose file."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def resources() -> list[dict]:
    """Return the resources of the Kubernetes file."""
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield a name and the arguments of each command of ocikit."""
    for name, service in services().items():
        if "ocikit" in service.get("image", "") and "entrypoint" not in service:
            yield f"compose {name}", service["command"]
    for resource in resources():
        template = resource.get("spec", {}).get("template", {}).get("spec", {})
        for container in template.get("containers", ()):
            yield f"kubernetes {container['name']}", container["args"]


def changed(words: list[str], **options: str) -> list[str]:
    """Return arguments with other values of options that they have."""
    names = {f"--{name}": value for name, value in options.items()}
    return [f"{word.partition('=')[0]}={names.get(word.partition('=')[0], word.partition('=')[2])}" if "=" in word else word
            for word in words]  # fmt: skip
