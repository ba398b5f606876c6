"""What a worker is spared between two tasks."""

import gc
import importlib
import zipimport

from recsys_spark.session import deal


def test_a_worker_that_was_dealt_a_task_reads_no_archive_anew(spark):
    def archives_read(_: int) -> tuple[int, int]:  # in here, as a worker cannot import this file
        read, seen = zipimport._read_directory, []
        zipimport._read_directory = lambda archive: seen.append(archive) or read(archive)
        try:
            importlib.invalidate_caches()  # as PySpark does ahead of every task
        finally:
            zipimport._read_directory = read
        return len(seen), gc.get_freeze_count()

    found = deal(spark.sparkContext, range(2)).map(archives_read).collect()
    assert all(read == 0 and frozen > 10_000 for read, frozen in found)


def test_pieces_are_dealt_in_order_to_no_more_tasks_than_there_are_slots(spark):
    context = spark.sparkContext
    dealt = deal(context, range(50))
    assert dealt.collect() == list(range(50))
    assert dealt.getNumPartitions() == context.defaultParallelism
    assert deal(context, range(1)).getNumPartitions() == 1
