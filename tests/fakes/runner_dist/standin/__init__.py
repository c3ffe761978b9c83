"""The runner stand-in's code, as it lies in the tarball under ``bin/standin``.

Runs on the host's own ``/usr/bin/python3`` (3.9 or newer), standard library only. It keeps the observable
contract of the real runner: options, files, output lines, exit codes, hooks and process names.
"""
