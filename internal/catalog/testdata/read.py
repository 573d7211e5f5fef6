"""Reads a published table with software that knows nothing of Tarn and writes what it saw as Arrow IPC.

read.py iceberg METADATA OUT [FILTER]      pyiceberg, from the metadata file alone
read.py duckdb OUT FILE...                 plain DuckDB, from the data files
"""
import sys

import pyarrow as pa


def main(kind, *args):
    if kind == "iceberg":
        from pyiceberg.table import StaticTable

        metadata, out, *where = args
        table = StaticTable.from_metadata(metadata)
        scan = table.scan(row_filter=where[0]) if where else table.scan()
        rows = scan.to_arrow()
    else:
        import duckdb

        out, *files = args
        con = duckdb.connect()
        con.execute("set timezone = 'UTC'")
        rows = con.execute("select * from read_parquet(?, union_by_name = true)", [list(files)]).to_arrow_table()
    with pa.OSFile(out, "wb") as f, pa.ipc.new_file(f, rows.schema) as w:
        w.write_table(rows)


main(*sys.argv[1:])
