"""Look at the warehouse's tables, check them, go back to an older version, and delete what is no longer wanted."""

import sys

from recsys_spark.pipeline import job, warehouse

if __name__ == "__main__":
    sys.exit(
        job.run(
            "warehouse", warehouse.run, __doc__, flags=warehouse.FLAGS, options=warehouse.OPTIONS,
            verbs=warehouse.VERBS, alone=True, leased=False,
        )
    )  # fmt: skip
