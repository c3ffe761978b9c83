"""The generated pages of docs/reference. `scripts/docs` writes them; a contract test compares them.

A generator is a function that returns pages: path below docs/reference -> text. They stand in
`pages.GENERATORS`.
"""
