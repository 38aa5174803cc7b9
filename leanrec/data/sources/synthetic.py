"""A made-up catalogue: people, films and ratings that follow hidden tastes, without any network.

Each category is a direction in a space of tastes. A film lies near its categories, a person near two
favourite ones; what a person watches follows closeness and popularity, and the rating follows closeness.
So there is something to learn, and how well a model learns it can be measured. The same settings give
the same rows. It shows that the chain works; figures on it say nothing about real people.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from leanrec.config import DataSettings
from leanrec.data.sources.raw import RawTable, RawTables

CATEGORIES = ("Adventure", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Music", "Mystery")
AGE_GROUPS = ("under 25", "25-44", "45-64", "65+")
GENDERS = ("F", "M")
ADJECTIVES = """
    Amber Autumn Borrowed Bright Broken Crooked Distant Early Empty Faithful Forgotten Gentle
    Golden Hidden Hollow Last Lonely Lucky Northern Patient Quiet Restless Second Secret Silver
    Slow Stolen Tall Wild Winter
""".split()  # noqa: SIM905
NOUNS = """
    Archive Bakery Bridge Canyon Carnival Clockmaker Compass Delta Detour Ferry Garden Harbour
    Inheritance Island Lantern Letter Library Lighthouse Market Meadow Mirror Orchard Passenger
    Piano River Season Staircase Station Summer Verdict
""".split()  # noqa: SIM905
SEED = 20240229
NUM_FACTORS = 16
FIRST_EVENT = 1_600_000_000  # seconds since 1970
DAYS = 365
DAY_S = 86_400
CELLS_AT_ONCE = 4_000_000
"""Scores of person and film held in memory together."""


def read(settings: DataSettings) -> RawTables:
    """`num_events` ratings of `num_items` films by `num_users` people."""
    random = np.random.default_rng(SEED)
    directions = random.normal(size=(len(CATEGORIES), NUM_FACTORS)) / np.sqrt(NUM_FACTORS)
    film_tastes, films = _films(settings.num_items, directions, random)
    user_tastes, people = _people(settings.num_users, directions, random)
    events = _events(settings.num_events, user_tastes, film_tastes, random)
    return RawTables(
        events=RawTable(origin="synthetic events", table=events, names={}),
        items=RawTable(origin="synthetic items", table=films, names={}),
        users=RawTable(origin="synthetic users", table=people, names={}),
    )


def _films(number: int, directions: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, pa.Table]:
    """Tastes [number, NUM_FACTORS], and the table of films; each has one category or two."""
    first, second = random.integers(len(CATEGORIES), size=(2, number))
    tastes = directions[first] + 0.5 * directions[second]
    tastes += random.normal(scale=0.35 / np.sqrt(NUM_FACTORS), size=tastes.shape)
    years = random.integers(1970, 2024, size=number)
    words = zip(random.choice(ADJECTIVES, number), random.choice(NOUNS, number), years, strict=True)
    table = pa.table(
        {
            "item_id": [f"f{n:05d}" for n in range(number)],
            "title": [f"{adjective} {noun} ({year})" for adjective, noun, year in words],
            "categories": [
                sorted({CATEGORIES[one], CATEGORIES[other]}) for one, other in zip(first, second, strict=True)
            ],
            "release_year": years,
        }
    )
    return tastes, table


def _people(number: int, directions: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, pa.Table]:
    """Tastes [number, NUM_FACTORS], and the table of people; age and gender lean towards a category."""
    ages, genders = random.integers(len(AGE_GROUPS), size=number), random.integers(len(GENDERS), size=number)
    leaning = ages * len(GENDERS) + genders  # one of eight groups, and there are eight categories
    favourite = np.where(random.random(number) < 0.5, leaning, random.integers(len(CATEGORIES), size=number))
    second = random.integers(len(CATEGORIES), size=number)
    tastes = directions[favourite] + 0.6 * directions[second]
    tastes += random.normal(scale=0.35 / np.sqrt(NUM_FACTORS), size=tastes.shape)
    table = pa.table(
        {
            "user_id": [f"p{n:05d}" for n in range(number)],
            "age_group": np.take(AGE_GROUPS, ages),
            "gender": np.take(GENDERS, genders),
        }
    )
    return tastes, table


def _events(
    number: int, user_tastes: np.ndarray, film_tastes: np.ndarray, random: np.random.Generator
) -> pa.Table:
    """Each person's films, drawn without replacement in proportion to exp(closeness and popularity)."""
    shares = np.cumsum(random.uniform(0.5, 1.5, size=len(user_tastes)))
    counts = np.diff(np.floor(shares / shares[-1] * number), prepend=0).astype(int)
    popularity = random.normal(scale=1.0, size=len(film_tastes))
    users, films, ratings = [], [], []
    people_at_once = max(1, CELLS_AT_ONCE // len(film_tastes))
    for start in range(0, len(user_tastes), people_at_once):
        closeness = user_tastes[start : start + people_at_once] @ film_tastes.T
        # The largest of score + Gumbel noise are a draw without replacement (Gumbel top-k).
        drawn = np.argsort(-(3.0 * closeness + popularity + random.gumbel(size=closeness.shape)), axis=1)
        rows, ranks = np.nonzero(np.arange(len(film_tastes)) < counts[start : start + people_at_once, None])
        films.append(drawn[rows, ranks])
        users.append(rows + start)
        ratings.append(2.7 + 1.3 * closeness[rows, films[-1]] + random.normal(scale=0.6, size=len(rows)))
    person = np.concatenate(users)
    began = random.integers(0, DAYS // 2 * DAY_S, size=len(user_tastes))
    times = FIRST_EVENT + began[person] + random.integers(0, DAYS // 2 * DAY_S, size=len(person))
    return pa.table(
        {
            "user_id": pa.array([f"p{n:05d}" for n in person]),
            "item_id": pa.array([f"f{n:05d}" for n in np.concatenate(films)]),
            "rating": np.clip(np.rint(np.concatenate(ratings)), 1, 5),
            "timestamp": times,
        }
    )
