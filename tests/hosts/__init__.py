"""Real systemd hosts in containers, for tests and for the demonstration.

``engine`` has or makes a Docker Engine, ``image`` makes the host images from the archive this machine uses,
``host`` starts hosts and reaches them by SSH, ``controller`` runs playbooks against them. By hand::

    python -m tests.hosts up --suite bookworm --name scratch
    python -m tests.hosts down
"""
