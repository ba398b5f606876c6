"""What the two neighbourhood models share.

| file | holds |
|---|---|
| `similarity.py` | the parameters, and what an interaction counts |
| `kernel.py` | the compiled loops: who is near whom, and what neighbours add up to |
| `search.py` | the neighbours of a block |
| `packing.py` | the training interactions, capped and packed into files by Spark's tasks |
"""
