"""The store of conda environments: built once from an ``environment.yml``, read by every job that asks.

``file`` reads, ``key`` names, ``store`` keeps, ``engine_*`` solve and install, ``service`` builds for jobs,
which may not write here, ``client`` asks it, ``layer`` gives a job something of its own to write to.
"""
