"""Write a made-up catalogue (events.csv, items.csv, users.csv): `make_catalogue.py FOLDER`.

Everybody likes one genre most and popular items more than others, so there is something to learn.
The same call writes the same files.
"""

import csv
import random
import sys
from collections.abc import Iterable
from pathlib import Path

NUM_USERS = 600
NUM_ITEMS = 400
EVENTS_A_USER = 30
GENRES = ("drama", "comedy", "crime", "documentary", "music")
AGE_GROUPS = ("under 25", "25 to 44", "45 and over")
START = 1_700_000_000  # seconds since 1970
HOUR = 3600


def write_catalogue(folder: Path, seed: int = 1) -> None:
    """Fill `folder` with the three files that the csv source reads."""
    chance = random.Random(seed)  # noqa: S311 - made-up tastes, no secret
    folder.mkdir(parents=True, exist_ok=True)
    items = [(f"i{i}", f"Title {i}", genre_of(i), 1980 + i % 45) for i in range(NUM_ITEMS)]
    users = [(f"u{u}", chance.choice(AGE_GROUPS)) for u in range(NUM_USERS)]
    write_rows(folder / "items.csv", ("item_id", "title", "categories", "release_year"), items)
    write_rows(folder / "users.csv", ("user_id", "age_group"), users)
    events = [event for user in range(NUM_USERS) for event in events_of(user, chance)]
    write_rows(folder / "events.csv", ("user_id", "item_id", "rating", "timestamp"), events)


def genre_of(item: int) -> str:
    """Genres take turns, so each has popular and rare items."""
    return GENRES[item % len(GENRES)]


def events_of(user: int, chance: random.Random) -> list[tuple[str, str, int, int]]:
    """What one user rated, an hour apart: mostly one genre, popular items first."""
    favourite = GENRES[user % len(GENRES)]
    drawn: dict[int, int] = {}
    start = START + chance.randrange(90 * 24) * HOUR
    while len(drawn) < EVENTS_A_USER:
        item = int(NUM_ITEMS * chance.random() ** 2)
        liked = genre_of(item) == favourite
        if item not in drawn and (liked or chance.random() < 0.2):
            drawn[item] = min(5, max(1, round(chance.gauss(4.5 if liked else 2.5, 0.8))))
    return [(f"u{user}", f"i{i}", rating, start + n * HOUR) for n, (i, rating) in enumerate(drawn.items())]


def write_rows(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    """Write one CSV file."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    write_catalogue(Path(sys.argv[1]))
