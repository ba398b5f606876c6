"""Nights one after the other with faults among them, and what has to hold after each: `make soak`.

| file | holds |
|---|---|
| `house.py` | everything that the nights live in: disk, log, servers, configuration |
| `run.py` | a job under way, whose stages can be waited for and whose processes can be killed |
| `night.py` | what a fault is given: the night, and how to see that it failed as it should and can be mended |
| `faults/` | the catalogue, a file for each family |
| `reader.py` | somebody who reads what is published, all the time |
| `invariants.py` | what has to hold of the tables, read with pyarrow alone |
| `soak.py` | the nights, in their order |
| `report.py` | what is written down of them |

Nothing here imports `recsys_spark`: what the project says of itself is not what is checked.
"""
