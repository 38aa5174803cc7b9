import shutil
from pathlib import Path

import pytest

from leanrec.data.sources.movielens_100k import WHEEL, fetch_wheel

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def movielens_cache(tmp_path_factory) -> Path:
    """A cache with the wheel: the checkout's own if a run has filled it, else fetched once a session."""
    if (REPOSITORY / "data" / WHEEL).exists():
        cache = tmp_path_factory.mktemp("cache")
        shutil.copy(REPOSITORY / "data" / WHEEL, cache)
        return cache
    cache = tmp_path_factory.mktemp("cache")
    fetch_wheel(cache)
    return cache


@pytest.fixture
def csv_files(tmp_path) -> dict[str, Path]:
    """A tiny, clean data set: three events of two users and two items."""
    files = {
        "events": "user_id,item_id,timestamp,rating\n"
        "ann,001,1600000000,4\nbob,002,1600000060,2.5\nann,002,1600000120,5\n",
        "items": "item_id,title,categories,release_year\n"
        '001,"Alien, again",Horror|Sci-Fi,1979\n002,Brazil,,\n',
        "users": "user_id,gender\nann,F\nbob,\n",
    }
    paths = {}
    for name, text in files.items():
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_text(text, encoding="utf-8")
    return paths
