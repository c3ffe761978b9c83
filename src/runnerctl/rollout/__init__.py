"""Take runners out of service and bring them back without losing a job: drain, resume, upgrade.

It stands above ``github`` and ``core`` and runs where a credential is. A host is reached through the narrow
interface in `runnerctl.rollout.ports`; Ansible's actions implement it.
"""
