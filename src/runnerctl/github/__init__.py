"""GitHub as this toolkit uses it: one client, its credentials, and the operations on runners.

``client`` speaks HTTP with bounds on everything, ``auth`` finds a credential in an environment, ``registry``
holds the operations of one scope, ``models`` what they return. Import the module that is needed: the
command line starts for every job, and most jobs never ask GitHub.
"""

from __future__ import annotations

__all__ = ["app", "auth", "client", "failures", "models", "permissions", "registry", "retry", "transport"]
