"""The agent's command line, with probes that see no free: as if the kernel skipped each of them."""

import sys
from dataclasses import replace

from probes.backends import BACKENDS
from probes.cli import main

for name, backend in BACKENDS.items():
    probes = tuple(planned for planned in backend.probes if planned.target != "kmem_cache_free")
    BACKENDS[name] = replace(backend, probes=probes)
sys.exit(main())
