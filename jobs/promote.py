"""Let the night's best model take the champion's place, if it is surely better; or go back one."""

import sys

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    flags = {"--rollback": "give the champion's place back to the previous champion, and measure nothing"}
    sys.exit(
        job.run("promote", lambda c, a: (stages.rollback if a.rollback else stages.promote)(c), __doc__, flags=flags)
    )
