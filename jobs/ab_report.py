"""Read out an A/B test: every metric beside the control, with intervals that hold at every look, and a verdict."""

import sys

from recsys_spark.pipeline import ab_report, job

if __name__ == "__main__":
    sys.exit(job.run("ab_report", ab_report.ab_report, __doc__, flags=ab_report.FLAGS))
