"""The real data, where it is at hand, is the official one."""

from pathlib import Path


def test_the_real_data_is_the_official_one(data_dir: Path) -> None:
    from evalkit.cli.data import verify

    listing, code = verify(str(data_dir), [])
    assert code == 0, listing.records
