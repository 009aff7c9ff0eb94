# Writes the tables beside it: pip install pyarrow; python tables.py
import pyarrow as pa
import pyarrow.parquet as pq

message = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
pq.write_table(pa.table({"text": pa.array(["Once upon", "a – time", ""], pa.large_string()), "n": [1, 2, 3], "other": ["x", "y", "z"]}),
               "texts.parquet", row_group_size=2)
pq.write_table(pa.table({"text": ["a", None]}), "null.parquet", compression="zstd", data_page_version="2.0", use_dictionary=False)
pq.write_table(pa.table({
    "id": [1, 2],
    "messages": pa.array([[{"role": "user", "content": "hi ä"}, {"role": "assistant", "content": "yo"}], [{"role": "user", "content": "b"}]], message),
    "system": ["be", None],
    "tools": ['[{"name": "f"}]', None],
}), "chats.parquet", compression="gzip", use_dictionary=False, column_encoding={"system": "DELTA_BYTE_ARRAY"})
pq.write_table(pa.table({"text": ["no"], "conversations": [[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]]}), "sharegpt.parquet")
