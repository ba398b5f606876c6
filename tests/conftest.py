"""The one Spark session that all tests share: starting it takes longer than most of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys_spark import session as house
from recsys_spark.config import SparkConfig


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """A local session of two cores; what it writes on its own lies in a temporary folder."""
    scratch = tmp_path_factory.mktemp("spark")
    log4j = Path(house.__file__).with_name("log4j2.properties").as_uri()
    conf = {
        "spark.sql.warehouse.dir": (scratch / "warehouse").as_uri(),
        # Hundreds of tiny queries: compiling well what runs once takes longer than running it.
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log4j} -XX:TieredStopAtLevel=1"
        " -XX:ReservedCodeCacheSize=256m",
        "spark.sql.codegen.wholeStage": "false",
    }
    config = SparkConfig(master="local[2]", shuffle_partitions=2, driver_memory="4g", conf=conf)
    session = house.get_session(config, "tests")
    session.sparkContext.setCheckpointDir(str(scratch / "checkpoints"))
    yield session
    session.stop()
