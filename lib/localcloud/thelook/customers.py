"""The table users."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.localcloud.thelook.draw import (
    DAY,
    FIRST_DAY,
    MINUTE,
    VALUES,
    WEIGHTS,
    WORDS,
    Columns,
    join,
    lay_out,
    pick,
    text,
    timestamps,
)

SIGN_UP_MINUTES = 19 * 60  # sign-ups happen between 00:00 and 19:00
BURST_PERMILLE = 25  # share of sign-ups that fall within the last six days
NULL_CITY_PERMILLE = 9  # the original has the text 'null' for a city it does not know


def draw(rng: np.random.Generator, count: int, now: int) -> Columns:
    """Draw what other tables depend on: id, sign-up (seconds) and gender (0 is F, 1 is M)."""
    return {
        "id": np.arange(1, count + 1),
        "created_at": _sign_ups(rng, count, now),
        "is_male": rng.integers(0, 2, count),
    }


def _sign_ups(rng: np.random.Generator, count: int, now: int) -> np.ndarray:
    """Draw sign-up times in seconds, on whole minutes: most over all days, some in the burst.

    The burst counts back from the moment of the snapshot, not from midnight: its times of day
    can be later than 19:00.
    """
    minutes = MINUTE * rng.integers(0, SIGN_UP_MINUTES, count)
    days = (now - FIRST_DAY) // DAY
    usual = FIRST_DAY + DAY * rng.integers(1, days, count)
    burst = now - now % MINUTE - DAY * rng.integers(1, 7, count)
    late = rng.integers(0, 1_000, count) < BURST_PERMILLE
    return np.where(late, burst, usual) + minutes


def table(rng: np.random.Generator, people: Columns) -> pa.Table:
    """The users, with name, address, age and traffic source, on which no other table depends."""
    count, sources = len(people["id"]), WEIGHTS["traffic_sources"]
    first, last = _names(rng, people["is_male"])
    place = _places(rng, count)
    mail = text(["@example.com", "@example.net", "@example.org"], rng.integers(0, 3, count))
    return lay_out("users", {
        "id": people["id"],
        "first_name": first,
        "last_name": last,
        "email": join(pc.utf8_lower(first), pc.utf8_lower(last), mail),
        "age": rng.integers(12, 71, count),
        "gender": text(["F", "M"], people["is_male"]),
        "street_address": _streets(rng, count),
        **place,
        "traffic_source": text(list(sources), pick(rng, sources.values(), count)),
        "created_at": timestamps(people["created_at"]),
        "user_geom": join(
            "POINT(", place["longitude"].cast(pa.string()),
            " ", place["latitude"].cast(pa.string()), ")",
        ),
    })


def _names(rng: np.random.Generator, is_male: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Draw first names that match the gender, and last names."""
    women, men = WORDS["women"], WORDS["men"]
    first = rng.integers(0, np.where(is_male == 1, len(men), len(women)))
    last = rng.integers(0, len(WORDS["last_names"]), len(is_male))
    return text(women + men, first + is_male * len(women)), text(WORDS["last_names"], last)


def _streets(rng: np.random.Generator, count: int) -> pa.Array:
    """Draw street addresses such as '17 Birch Lane'."""
    names = [f" {street} {kind}" for street in WORDS["streets"] for kind in WORDS["street_kinds"]]
    number = pa.array(rng.integers(1, 1_000, count)).cast(pa.string())
    return join(number, text(names, rng.integers(0, len(names), count)))


def _places(rng: np.random.Generator, count: int) -> dict[str, pa.Array]:
    """Draw country, state, city, postal code and a point within .2 degrees of the city.

    All places of a country are equally likely.
    """
    countries = VALUES["countries"]
    rows = [(country, digits, *place) for country, (_, digits, places) in countries.items()
            for place in places]
    country_names, digits, states, cities, latitudes, longitudes = zip(*rows, strict=True)
    counts = np.array([len(places) for _, _, places in countries.values()])
    country = pick(rng, (share for share, _, _ in countries.values()), count)
    row = (np.cumsum(counts) - counts)[country] + rng.integers(0, counts[country])
    digits = np.array(digits)[row]
    postal = pa.array(rng.integers(10 ** (digits - 1), 10**digits)).cast(pa.string())
    unknown = rng.integers(0, 1_000, count) < NULL_CITY_PERMILLE
    return {
        "country": text(country_names, row),
        "state": text(states, row),
        "city": pc.if_else(pa.array(unknown), "null", text(cities, row)),
        "postal_code": postal,
        "latitude": _near(rng, np.array(latitudes)[row]),
        "longitude": _near(rng, np.array(longitudes)[row]),
    }


def _near(rng: np.random.Generator, degrees: np.ndarray) -> pa.Array:
    """Move coordinates by up to .2 degrees, in steps of a millionth."""
    centre = np.rint(degrees * 1_000_000).astype(np.int64)
    return pa.array((centre + rng.integers(-200_000, 200_001, len(degrees))) / 1_000_000)
