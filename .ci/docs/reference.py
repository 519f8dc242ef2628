"""The reference pages of the Python interface: what each of them shows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_API = Path(__file__).resolve().parent.parent.parent / "ocikit" / "api.py"

#: Names that `ocikit.api` builds from a session's methods, where they are documented.
VERBS = re.findall(r"^(\w+) = _function\(", _API.read_text(), re.MULTILINE)

#: The most common verbs, in the order in which a newcomer needs them; the others follow by name.
FIRST = ("pull", "push", "inspect", "open", "tags", "copy", "edit", "attach")

#: Reference pages: title, summary, and content; "module:name name" selects names of a module.
REFERENCE: Mapping[str, tuple[str, Sequence[str]]] = {
    "verbs": (
        "The functions share connections, tokens and the [cache](cache.md). The methods of a [Session](session.md) do the same with your settings.\n\nExamples run as they stand after `import ocikit`. Those that name `localhost:5000` need a registry there: `ocikit serve store`.",
        [
            *(f"verb {name}" for name in [*FIRST, *sorted(set(VERBS) - set(FIRST))]),
            "ocikit.api:save load scan sql diff history lineage watch explore fs pooch",
            "ocikit.auth:login login_form logout explain",
            "ocikit.server.process.serve:serve Server",
        ],
    ),
    "session": (
        (
            "The [verbs](verbs.md) as methods, with settings, one pool of connections and one cache.\n\n"
            "The functions of `ocikit` share one session. It is dropped when the environment or a file with credentials changes, after "
            "`login` and `logout`, after a fork, and after a minute without calls. `session.registry(host).repository(name)` has "
            "every endpoint of the specification."
        ),
        ["session", "ocikit.remote.config.network", "ocikit.remote.auth.keychain:Credentials Keychain"],
    ),
    "artifacts": (
        "The results of the verbs.",
        [
            "ocikit.client.artifact:Artifact File Files",
            "ocikit.client.listing",
            "ocikit.data.diff:Diff Change Rename",
            "ocikit.data.watch:Watch",
            "ocikit.descriptions.card:Card",
            "ocikit.client.describe:Descriptions",
            "ocikit.descriptions.model:Description Column Tensor Entry",
            "ocikit.data.tables:TableChange",
        ],
    ),
    "cache": (
        "`ocikit.cache` is the cache of the [verbs](verbs.md): a `Cache` in the folder of the user, or in that of `OCIKIT_CACHE`.",
        [
            "ocikit.store.cache.cache:Cache",
            "ocikit.store.cache.scan:CacheInfo",
            "ocikit.store.cache.prune:PrunePlan",
        ],
    ),
    "errors": ("All errors, as a tree.", ["ocikit.errors"]),
    "documents": (
        "The documents in a registry: values that keep the bytes they were parsed from.",
        [
            "ocikit.spec.reference:Reference LayoutReference parse_reference",
            "ocikit.spec.digest",
            "ocikit.spec.descriptor",
            "ocikit.spec.manifest:Manifest Index parse_document",
            "ocikit.spec.config",
            "ocikit.spec.platform",
            "ocikit.spec.validation",
        ],
    ),
    "stores": (
        "Stores of content, and copies between them.",
        [
            "ocikit.store.base:Source Store",
            "ocikit.transfer.plan:plan copy",
            "ocikit.transfer.run:Plan",
            "ocikit.store.layout.layout:Layout",
            "ocikit.store.memory:MemoryStore",
            "ocikit.progress.base:Progress",
            "ocikit.layers.unpack:unpack Unpacked",
        ],
    ),
    "registries": (
        "Every endpoint of the distribution specification as a method.",
        [
            "ocikit.remote.registry:Registry Ping",
            "ocikit.remote.repository:Repository",
            "ocikit.remote.endpoints:Endpoints",
        ],
    ),
    "server": (
        "The parts of a registry of your own. [`ocikit.serve`](verbs.md#ocikit.server.process.serve.serve) starts one.",
        [
            "ocikit.server.process.options:ServerOptions",
            "ocikit.server.http.app:Application",
            "ocikit.server.storage.base",
            "ocikit.server.storage.files:file_storage",
            "ocikit.server.auth.access:Access",
            "ocikit.server.http.settings",
            "ocikit.server.storage.gc",
            "ocikit.server.storage.verify",
            "ocikit.server.testing",
        ],
    ),
    "testing": (
        "Registries for tests. [Test your code](../how-to/test_your_code.md) shows their use.",
        [
            "ocikit.testing.registries:registry Registry describe",
            "ocikit.testing.faults:Fault",
            "ocikit.testing.messages:Request Response",
            "ocikit.testing.profiles:Profile",
            "ocikit.testing.plugin:oci_registry oci_registries",
        ],
    ),
}
