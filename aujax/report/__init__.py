"""Pages, tables and figures of evaluated runs: files in, files out, without JAX.

Each file imports from its own row and from those above.

| row | files |
| --- | --- |
| text | `tables` |
| images | `faces` |
| markup | `html` |
| figures | `plots` |
| wholes | `page`; `paper` |
| command | `__main__` |
"""
