"""Print the spark-submit options that a job's configuration asks for; submit.sh has to know them before the JVM starts.

    scripts/spark_options.py --config conf/embedded.yaml spark.master='local[2]'
    --master local[2] --driver-memory 4g

An argument that is not a job's passes: the job itself says what is wrong with it.
"""

import argparse
import sys

from recsys_spark.config import load_config
from recsys_spark.errors import UserError


def main() -> int:
    """Print the options; return the contract's exit code."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    args, rest = parser.parse_known_args()
    if args.config is None:
        return 0
    try:
        spark = load_config(args.config, [a for a in rest if "=" in a and not a.startswith("-")]).spark
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("--master", spark.master, "--driver-memory", spark.driver_memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
