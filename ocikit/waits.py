"""How long a thread waits for another one."""

from __future__ import annotations

import threading
from typing import Final

#: Seconds: no limit in practice. Ctrl-C does not always end a wait without a limit: on Windows it never does, and elsewhere
#: it does not after a library has installed its own handler of SIGINT with SA_RESTART, as polars has when it is used first.
#: It does end a wait with any limit.
UNLIMITED: Final = threading.TIMEOUT_MAX
