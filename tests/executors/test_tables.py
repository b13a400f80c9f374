"""One part's tables: what methods compute and what they do not, per document and per token."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate.executors.contract import Chunk, Span
from curate.executors.tables import metadata_columns, part_tables
from curate.folders.frames import scan
from curate.gradients.scored import Scored
from curate.proxies.tokens import Encoded
from curate.schema import Document

LENGTHS = (3, 5, 2)


def chunk() -> Chunk:
    documents = [
        Document(doc_id=f"d{i}", shard="a", row=i, content_hash="0" * 32, text="x", metadata={"token_texts": i})
        for i in range(len(LENGTHS))
    ]
    encoded = [Encoded(ids=np.arange(n, dtype=np.int32), scored=np.arange(n) > 0, truncated=False) for n in LENGTHS]
    return Chunk(
        span=Span(shard="a", shard_index=0, index=0, start=0, end=3, last=True),
        documents=documents,
        encoded=encoded,
        overlaps=[(False, 0.0)] * 3,
        skipped=[],
    )


def by_token() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in LENGTHS]


def words(ids) -> list[str]:
    return [f"w{i}" for i in ids]


def tables(scored: Scored, columns=("score", "score_law")) -> tuple[pa.Table, pa.Table]:
    return part_tables(chunk(), scored, columns, words)


def test_tokens_are_lists_that_sum_to_the_scores() -> None:
    tokens = by_token()
    table, _ = tables(Scored(scores=torch.stack([t.sum(0) for t in tokens]), tokens=tokens))
    found = table.to_pydict()
    for column, lists in (("score", "token_scores"), ("score_law", "token_scores_law")):
        assert table.schema.field(lists).type == pa.list_(pa.float32())
        assert [len(x) for x in found[lists]] == list(LENGTHS)
        np.testing.assert_allclose([sum(x) for x in found[lists]], found[column], rtol=1e-5)
    assert found["token_texts"] == [["w0", "w1", "w2"], ["w0", "w1", "w2", "w3", "w4"], ["w0", "w1"]]
    assert found["pool_token_texts"] == [0, 1, 2]  # the pool's own column makes way


def test_tokens_stay_with_their_document_when_another_is_set_aside() -> None:
    tokens = by_token()
    tokens[1][2, 1] = 1e300  # nothing that float32 can hold
    table, skipped = tables(Scored(scores=torch.zeros(3, 2), losses=torch.ones(3), norms=torch.ones(3), tokens=tokens))
    assert table["doc_id"].to_pylist() == ["d0", "d2"]
    np.testing.assert_allclose(table["token_scores"].to_pylist()[1], tokens[2][:, 0], rtol=1e-6)
    assert skipped["reason"].to_pylist() == ["non-finite gradient"]


def test_tokens_of_another_length_are_an_error_and_no_shifted_table() -> None:
    with pytest.raises(AssertionError, match="for 5 tokens"):
        tables(Scored(scores=torch.zeros(3, 2), tokens=[torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(2, 2)]))


def test_what_a_method_does_not_compute_is_null() -> None:
    table, skipped = tables(Scored(scores=torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [3.0, 4.0]])))
    for column in ("loss", "grad_norm"):
        assert table.schema.field(column).type == pa.float32()
        assert table[column].null_count == table.num_rows == 2
    assert skipped["reason"].to_pylist() == ["non-finite score"]
    assert not [c for c in table.column_names if c.startswith("token_")]
    table, skipped = tables(Scored(scores=torch.ones(3, 2), losses=torch.tensor([2.0, float("inf"), 4.0])))
    assert table["loss"].to_pylist() == [1.0, 4.0]  # per scored token
    assert table["grad_norm"].null_count == 2
    assert skipped["reason"].to_pylist() == ["non-finite loss"]


def columns_of(*values: dict) -> dict[str, pa.Array]:
    return metadata_columns(
        [Document(doc_id="d", shard="a", row=0, content_hash="0" * 32, text="x", metadata=v) for v in values]
    )


def test_whole_numbers_of_the_pool_keep_their_digits():
    table = columns_of({"u": 2**64 - 1, "either": -1, "mixed": 2**60 + 1}, {"u": 1, "either": 2**63, "mixed": 0.5})
    assert (table["u"].type, table["u"].to_pylist()) == (pa.uint64(), [2**64 - 1, 1])
    assert [int(v) for v in table["either"].to_pylist()] == [-1, 2**63]
    assert table["mixed"].to_pylist() == [str(2**60 + 1), "0.5"]


def test_moments_of_an_offset_are_utc_so_that_polars_reads_them(tmp_path):
    moment = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    pq.write_table(pa.table(columns_of({"at": moment})), tmp_path / "new.parquet")
    pq.write_table(pa.table({"at": pa.array([moment], pa.timestamp("us", "+05:30"))}), tmp_path / "old.parquet")
    for name in ("new", "old"):
        file = tmp_path / f"{name}.parquet"
        frame = scan([(file, pq.read_schema(file))], empty=pa.schema([])).collect()
        assert frame["at"].to_list() == [moment]


def test_names_that_sql_lacks_or_takes_for_the_same_are_renamed():
    table = columns_of({"": 1, "A": 2, "a": 3, "Score": 4, 'a"; DROP': 5})
    assert {k: v.to_pylist()[0] for k, v in table.items()} == {
        "unnamed": 1, "A": 2, "pool_a": 3, "pool_Score": 4, 'a"; DROP': 5
    }  # fmt: skip


def test_of_very_many_columns_those_that_few_documents_have_stay_out():
    def document(row: int) -> Document:
        metadata = {"source": "web", **{f"key {10 * row + i}": i for i in range(10)}}
        return Document(doc_id=str(row), shard="a", row=row, content_hash="0", text="x", metadata=metadata)

    assert len(metadata_columns([document(row) for row in range(20)])) == 201
    assert list(metadata_columns([document(row) for row in range(40)])) == ["source"]
