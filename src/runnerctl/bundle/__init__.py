"""What hosts without internet need, in one directory or archive: collected, verified, and handed out.

``manifest.json`` names every file with its size and SHA-256; one that it does not name makes the bundle void.
"""
