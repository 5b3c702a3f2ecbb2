"""A synthetic stand-in for `bigquery-public-data.thelook_ecommerce`, drawn from a seed.

What it is: the four tables that the demo reads (users, orders, order_items, products), with
the schema of the public dataset. No row of the public dataset is in it. Names, addresses,
brands and products are made up; prices, shares and times follow the original.

The process (times are UTC, `as_of` is the moment of the snapshot):

- Sign-up: a uniform day since 2019-01-01, at a uniform minute between 00:00 and 19:00. One in
  forty signs up within the last six days instead, which is why the data ends in a burst.
- Orders of a customer: 0, 1, 2, 3 or 4 (.20 .50 .20 .05 .05), never more. Each order's time is
  uniform between sign-up and `as_of`, independent of the other orders.
- Status, number of items, product and price are drawn independently of time, of the customer
  and of each other; a product only has to match the customer's gender. Ship, deliver and
  return times follow the order by up to 3, 5 and 3 days and may lie after `as_of`.
- `order_items.created_at` is not the order's time. It starts up to four hours before it and
  is moved on by the simulated clicks: minutes for an order of one item, 0 to 4 days for more.

Source of the numbers: statistics of the public dataset and its generator, measured in July
2026 at 100,000 users. `tests/localcloud/test_thelook.py` holds the tables against them.

How much there is to learn: little, as in the original. Nothing that a customer is or buys
changes what she does next, so age, country, basket and returns carry no signal. Only two
things do, and both are artefacts of the process: the time since sign-up (orders are spread
over [sign-up, as_of], so a short membership is a dense one) and the number of orders so far
(after the fourth there is never another). A churn model cannot reach a ROC-AUC above about
.80 on this data; a higher figure means that it has seen the future.

The draws are integers from PCG64, so a seed gives the same tables on every machine with the
pinned NumPy. `test_thelook.py` holds a digest of them, which tells of any change.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCHEMAS: dict[str, list[tuple[str, str]]] = {
    "users": [
        ("id", "INT64"),
        ("first_name", "STRING"),
        ("last_name", "STRING"),
        ("email", "STRING"),
        ("age", "INT64"),
        ("gender", "STRING"),
        ("state", "STRING"),
        ("street_address", "STRING"),
        ("postal_code", "STRING"),
        ("city", "STRING"),
        ("country", "STRING"),
        ("latitude", "FLOAT64"),
        ("longitude", "FLOAT64"),
        ("traffic_source", "STRING"),
        ("created_at", "TIMESTAMP"),
        ("user_geom", "GEOGRAPHY"),
    ],
    "orders": [
        ("order_id", "INT64"),
        ("user_id", "INT64"),
        ("status", "STRING"),
        ("gender", "STRING"),
        ("created_at", "TIMESTAMP"),
        ("returned_at", "TIMESTAMP"),
        ("shipped_at", "TIMESTAMP"),
        ("delivered_at", "TIMESTAMP"),
        ("num_of_item", "INT64"),
    ],
    "order_items": [
        ("id", "INT64"),
        ("order_id", "INT64"),
        ("user_id", "INT64"),
        ("product_id", "INT64"),
        ("inventory_item_id", "INT64"),
        ("status", "STRING"),
        ("created_at", "TIMESTAMP"),
        ("shipped_at", "TIMESTAMP"),
        ("delivered_at", "TIMESTAMP"),
        ("returned_at", "TIMESTAMP"),
        ("sale_price", "FLOAT64"),
    ],
    "products": [
        ("id", "INT64"),
        ("cost", "FLOAT64"),
        ("category", "STRING"),
        ("name", "STRING"),
        ("brand", "STRING"),
        ("retail_price", "FLOAT64"),
        ("department", "STRING"),
        ("sku", "STRING"),
        ("distribution_center_id", "INT64"),
    ],
}

# A GEOGRAPHY travels as WKT text, as BigQuery itself exports and loads it.
ARROW_TYPES = {
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "STRING": pa.string(),
    "GEOGRAPHY": pa.string(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
}

AS_OF = datetime(2026, 7, 3, 0, 40, tzinfo=UTC)
FIRST_DAY = int(datetime(2019, 1, 1, tzinfo=UTC).timestamp())  # seconds since 1970
MINUTE, HOUR, DAY = 60, 3_600, 86_400  # seconds
SIGN_UP_MINUTES = 19 * 60  # sign-ups happen between 00:00 and 19:00
FEWEST_DAYS = 8  # the sign-up burst reaches a week back from as_of

# Weights are integers: sums of floats would be one more thing that could differ by machine.
ORDERS_PER_USER = (20, 50, 20, 5, 5)  # for 0, 1, 2, 3, 4 orders, in percent
ITEMS_PER_ORDER = (70, 20, 5, 5)  # for 1, 2, 3, 4 items, in percent
UNSOLD_PER_ITEM = (50, 30, 20)  # 1, 2, 3 unsold copies on stock beside each item sold
BURST_PERMILLE = 25  # share of sign-ups that fall within the last six days
STATUSES = {"Shipped": 30, "Complete": 25, "Processing": 20, "Cancelled": 15, "Returned": 10}
TRAFFIC_SOURCES = {"Search": 70, "Organic": 15, "Facebook": 6, "Email": 5, "Display": 4}

FIRST_NAMES = {
    "F": "Ada Bea Cara Dina Elsa Fay Gwen Hana Iris June Kira Lena Mina Nora Olga Pia Rosa "
    "Sara Tess Una Vera Wilma Yuna Zoe".split(),
    "M": "Abel Ben Carl Dan Emil Finn Gus Hugo Ivan Jon Karl Liam Max Nils Otto Paul Rolf Sam "
    "Theo Udo Viktor Will Yusuf Zeno".split(),
}
LAST_NAMES = (
    "Abbot Baker Carver Diaz Ekman Farmer Gruber Haas Ito Jansen Kim Lopez Mason Novak Okoye "
    "Park Quist Rossi Silva Tanaka Umeda Vogel Wang Xu Young Zeller Archer Bauer Chen Dubois"
).split()
STREETS = (
    "Acorn Birch Canal Dune Elm Forge Garden Harbor Island Juniper Kiln Lake Mill North Orchard "
    "Pine Quarry River Station Tower"
).split()
STREET_KINDS = "Street Avenue Lane Road Square Way".split()

# Country: users per 10,000, digits of a postal code, places as (state, city, lat, lon).
COUNTRIES = {
    "China": (3_399, 6, (
        ("Guangdong", "Shenzhen", 22.54, 114.06), ("Guangdong", "Guangzhou", 23.13, 113.26),
        ("Shanghai", "Shanghai", 31.23, 121.47), ("Beijing", "Beijing", 39.90, 116.41),
        ("Zhejiang", "Hangzhou", 30.27, 120.16), ("Jiangsu", "Suzhou", 31.30, 120.58),
    )),
    "United States": (2_199, 5, (
        ("California", "Los Angeles", 34.05, -118.24), ("California", "Oakland", 37.80, -122.27),
        ("Texas", "Houston", 29.76, -95.37), ("Florida", "Orlando", 28.54, -81.38),
        ("New York", "New York", 40.71, -74.01), ("Illinois", "Chicago", 41.88, -87.63),
    )),
    "Brasil": (1_450, 8, (
        ("São Paulo", "São Paulo", -23.55, -46.63), ("São Paulo", "Campinas", -22.91, -47.06),
        ("Bahia", "Salvador", -12.97, -38.50), ("Minas Gerais", "Belo Horizonte", -19.92, -43.94),
        ("Pará", "Belém", -1.46, -48.50),
    )),
    "South Korea": (550, 5, (
        ("Seoul", "Seoul", 37.57, 126.98), ("Gyeonggi-do", "Suwon", 37.26, 127.03),
        ("Busan", "Busan", 35.18, 129.08), ("Gyeonggi-do", "Goyang", 37.66, 126.83),
    )),
    "France": (500, 5, (
        ("Île-de-France", "Paris", 48.86, 2.35), ("Occitanie", "Toulouse", 43.60, 1.44),
        ("Auvergne-Rhône-Alpes", "Lyon", 45.76, 4.84), ("Hauts-de-France", "Lille", 50.63, 3.06),
    )),
    "United Kingdom": (460, 5, (
        ("England", "London", 51.51, -0.13), ("England", "Leeds", 53.80, -1.55),
        ("Scotland", "Glasgow", 55.86, -4.25), ("Wales", "Cardiff", 51.48, -3.18),
    )),
    "Germany": (420, 5, (
        ("Berlin", "Berlin", 52.52, 13.40), ("Bayern", "München", 48.14, 11.58),
        ("Nordrhein-Westfalen", "Köln", 50.94, 6.96), ("Hamburg", "Hamburg", 53.55, 9.99),
    )),
    "Spain": (400, 5, (
        ("Comunidad de Madrid", "Madrid", 40.42, -3.70), ("Cataluña", "Barcelona", 41.39, 2.17),
        ("Andalucía", "Sevilla", 37.39, -5.98),
    )),
    "Japan": (240, 7, (
        ("Tokyo", "Tokyo", 35.68, 139.69), ("Osaka", "Osaka", 34.69, 135.50),
        ("Kanagawa", "Yokohama", 35.44, 139.64),
    )),
    "Australia": (220, 4, (
        ("New South Wales", "Sydney", -33.87, 151.21), ("Victoria", "Melbourne", -37.81, 144.96),
        ("Queensland", "Brisbane", -27.47, 153.03),
    )),
    "Belgium": (130, 4, (
        ("Flanders", "Antwerpen", 51.22, 4.40), ("Brussels", "Brussels", 50.85, 4.35),
        ("Wallonia", "Liège", 50.63, 5.57),
    )),
    "Poland": (20, 5, (("Dolnośląskie", "Wrocław", 51.11, 17.03),)),
    # The original writes a few users' countries in their own language, or in no list at all.
    "Colombia": (4, 6, (("Amazonas", "Leticia", -4.22, -69.94),)),
    "Austria": (3, 4, (("Tirol", "Kufstein", 47.58, 12.17),)),
    "España": (3, 5, (("Galicia", "Vigo", 42.24, -8.72),)),
    "Deutschland": (2, 5, (("Sachsen", "Görlitz", 51.15, 14.99),)),
}
NULL_CITY_PERMILLE = 9  # the original has the text 'null' for a city it does not know

# Category: products, typical price in dollars, what its articles are called.
# Women first, as in the original: ids 1 to 15,989, then men to 29,120.
CATEGORIES = {
    "Women": {
        "Tops & Tees": (784, 30, ("Tee", "Tank Top", "Blouse")),
        "Sweaters": (738, 54, ("Sweater", "Cardigan")),
        "Fashion Hoodies & Sweatshirts": (895, 45, ("Hoodie", "Sweatshirt")),
        "Jeans": (882, 79, ("Straight Jeans", "Skinny Jeans")),
        "Pants & Capris": (613, 40, ("Trousers", "Capri Pants")),
        "Leggings": (564, 17, ("Leggings", "Footless Tights")),
        "Shorts": (826, 32, ("Shorts", "Denim Shorts")),
        "Skirts": (367, 37, ("Pencil Skirt", "Maxi Skirt")),
        "Dresses": (955, 59, ("Wrap Dress", "Shift Dress")),
        "Jumpsuits & Rompers": (162, 25, ("Jumpsuit", "Romper")),
        "Suits": (188, 123, ("Skirt Suit", "Pant Suit")),
        "Blazers & Jackets": (561, 60, ("Blazer", "Cropped Jacket")),
        "Outerwear & Coats": (592, 106, ("Coat", "Parka")),
        "Clothing Sets": (37, 70, ("Two-Piece Set", "Outfit")),
        "Active": (679, 33, ("Running Tights", "Sports Top")),
        "Swim": (892, 54, ("Swimsuit", "Bikini Top")),
        "Intimates": (2_363, 28, ("Bra", "Briefs", "Camisole")),
        "Sleep & Lounge": (830, 38, ("Pajama Set", "Robe")),
        "Socks & Hosiery": (666, 14, ("Socks", "Tights")),
        "Maternity": (898, 40, ("Maternity Top", "Maternity Dress")),
        "Plus": (758, 25, ("Plus-Size Top", "Plus-Size Tunic")),
        "Accessories": (739, 23, ("Scarf", "Belt", "Sunglasses")),
    },
    "Men": {
        "Tops & Tees": (1_084, 34, ("Tee", "Polo Shirt", "Henley")),
        "Sweaters": (999, 60, ("Sweater", "Cardigan")),
        "Fashion Hoodies & Sweatshirts": (971, 52, ("Hoodie", "Sweatshirt")),
        "Jeans": (1_117, 78, ("Straight Jeans", "Slim Jeans")),
        "Pants": (1_041, 50, ("Chinos", "Cargo Pants")),
        "Shorts": (939, 44, ("Shorts", "Cargo Shorts")),
        "Suits & Sport Coats": (739, 100, ("Suit", "Sport Coat")),
        "Outerwear & Coats": (828, 110, ("Coat", "Parka")),
        "Active": (753, 35, ("Running Shorts", "Track Jacket")),
        "Swim": (906, 50, ("Swim Trunks", "Board Shorts")),
        "Underwear": (1_088, 25, ("Boxer Briefs", "Undershirt")),
        "Sleep & Lounge": (941, 37, ("Pajama Pants", "Robe")),
        "Socks": (905, 15, ("Dress Socks", "Crew Socks")),
        "Accessories": (820, 25, ("Wallet", "Belt", "Cap")),
    },
}
WOMEN = sum(count for count, _, _ in CATEGORIES["Women"].values())  # 15,989
MEN = sum(count for count, _, _ in CATEGORIES["Men"].values())  # 13,131

# How retail prices are spread: (products that cost less, per mille; price in cents).
PRICE_CURVES = {
    "Women": (
        (0, 2), (1, 295), (5, 485), (10, 600), (30, 830), (50, 950), (75, 1_050), (100, 1_195),
        (150, 1_470), (200, 1_775), (250, 2_100), (300, 2_500), (325, 2_500), (350, 2_600),
        (400, 3_000), (450, 3_400), (500, 3_750), (550, 4_090), (600, 4_600), (650, 5_100),
        (700, 5_950), (750, 6_900), (800, 7_950), (850, 9_800), (900, 12_200), (930, 14_450),
        (950, 16_250), (970, 19_450), (980, 22_500), (985, 25_000), (990, 29_500),
        (991, 30_000), (995, 36_000), (998, 47_000), (999, 76_000), (1_000, 90_300),
    ),
    "Men": (
        (0, 150), (1, 310), (5, 595), (10, 790), (30, 1_085), (50, 1_290), (100, 1_685),
        (150, 2_000), (200, 2_400), (225, 2_500), (250, 2_500), (275, 2_700), (300, 2_900),
        (350, 3_200), (400, 3_575), (450, 3_990), (475, 4_050), (500, 4_400), (550, 4_950),
        (600, 5_200), (650, 5_800), (700, 6_450), (750, 7_000), (800, 8_500), (850, 10_000),
        (900, 13_230), (930, 15_900), (950, 18_000), (970, 21_800), (980, 25_050),
        (985, 28_000), (989, 30_000), (990, 32_500), (995, 39_950), (998, 58_000),
        (999, 90_300), (1_000, 99_900),
    ),
}
# Shops like round prices: of 100 articles, how many end in which cents.
PRICE_ENDINGS = {0: 39, 99: 23, 95: 9, 50: 7}
PRICES_AS_DRAWN = 22

BRAND_STARTS = (
    "Alder Amber Arbor Aspen Atlas Basalt Beacon Birch Blue Bramble Bright Cedar Clover Cobalt "
    "Copper Coral Cotton Crane Dawn Delta Dusk Ember Fable Falcon Fern Flint Fox Frost Glen "
    "Golden Granite Grey Harbor Hazel Heron Indigo Iron Ivory Juniper Lark Linen Lunar Maple "
    "Marble Meadow Mint Nimbus Oak Opal Pearl Quill Raven Sable"
).split()
BRAND_ENDS = (
    "& Anchor|& Arrow|& Co|Atelier|Avenue|Bay|Bell|Brothers|Canyon|Club|Collective|Cove|"
    "Creek|Cut|Denim|Dept|Field|Forge|Gate|Goods|Grove|Guild|Hall|Harvest|Hill|House|Island|"
    "Knit|Label|Lane|League|Loom|Market|Mill|Mode|Needle|North|Outfit|Park|Post|Ridge|Road|"
    "Room|Seam|Society|Stitch|Studio|Supply|Thread|Tower|Union|Wear"
).split("|")
BRANDS = [f"{start} {end}" for start in BRAND_STARTS for end in BRAND_ENDS]  # 2,756
# Of each hundred brands: for women only, for men only, for both.
BRAND_DEPARTMENTS = (48, 35, 17)
NO_BRAND = {"Women": 12, "Men": 12}
NAMELESS = (10_000, 20_000)  # product ids
STYLES = (
    "Classic Everyday Slim Relaxed Soft Striped Printed Washed Lightweight Vintage Ribbed Basic "
    "Cropped Textured Seamless Quilted"
).split()
DISTRIBUTION_CENTERS = 10


def generate(
    users: int = 100_000, seed: int = 7, as_of: datetime = AS_OF
) -> dict[str, pa.Table]:
    """Draw the tables of theLook as they would stand at one moment.

    Args:
        users: how many customers sign up. There are about 1.25 orders and 1.8 items for each.
        seed: not negative. The same seed, users and as_of give the same tables; products
            depend on the seed alone.
        as_of: the moment of the snapshot, with a time zone, at least eight days after
            2019-01-01. No sign-up and no order is later.

    Returns:
        Table name -> rows, with the columns of SCHEMAS in that order.

    Raises:
        ValueError: an argument is out of its range.
    """
    now = _now_seconds(as_of)
    if users < 1:
        raise ValueError(f"users must be at least 1, got {users}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    products = _products(_stream(seed, "products"))
    people = _users(_stream(seed, "users"), users, now)
    orders = _orders(_stream(seed, "orders"), people, now)
    items = _order_items(_stream(seed, "order_items"), orders, products["cents"])
    return {
        "users": _users_table(_stream(seed, "addresses"), people),
        "orders": _orders_table(orders),
        "order_items": _order_items_table(items),
        "products": _products_table(products),
    }


def _now_seconds(as_of: datetime) -> int:
    """Return as_of in seconds since 1970, or raise ValueError if it cannot be used."""
    if as_of.tzinfo is None:
        raise ValueError(f"as_of needs a time zone, got {as_of.isoformat()}")
    now = int(as_of.timestamp())
    if now < FIRST_DAY + FEWEST_DAYS * DAY:
        raise ValueError(f"as_of must be 2019-01-09 or later, got {as_of.isoformat()}")
    return now


def _stream(seed: int, purpose: str) -> np.random.Generator:
    """Return random numbers of their own for one purpose, so that none shifts another."""
    position = ("products", "users", "orders", "order_items", "addresses").index(purpose)
    return np.random.Generator(np.random.PCG64([seed, position]))


def _pick(rng: np.random.Generator, weights, size: int) -> np.ndarray:
    """Draw positions in `weights` (integers), each with a chance in proportion to its weight."""
    edges = np.cumsum(np.asarray(tuple(weights), dtype=np.int64))
    return np.searchsorted(edges, rng.integers(0, edges[-1], size), side="right")


# --- users ---------------------------------------------------------------------------------


def _users(rng: np.random.Generator, count: int, now: int) -> dict[str, np.ndarray]:
    """Draw what later tables depend on: id, sign-up (seconds) and gender (0 is F, 1 is M)."""
    return {
        "id": np.arange(1, count + 1),
        "created_at": _sign_ups(rng, count, now),
        "is_male": rng.integers(0, 2, count),
    }


def _sign_ups(rng: np.random.Generator, count: int, now: int) -> np.ndarray:
    """Draw sign-up times in seconds, on whole minutes: most over all days, some in the burst.

    The burst counts from the moment of the snapshot, not from a midnight; so its times of day
    reach beyond 19:00.
    """
    minutes = MINUTE * rng.integers(0, SIGN_UP_MINUTES, count)
    days = (now - FIRST_DAY) // DAY
    usual = FIRST_DAY + DAY * rng.integers(1, days, count)
    burst = now - now % MINUTE - DAY * rng.integers(1, 7, count)
    late = rng.integers(0, 1_000, count) < BURST_PERMILLE
    return np.where(late, burst, usual) + minutes


def _users_table(rng: np.random.Generator, people: dict[str, np.ndarray]) -> pa.Table:
    """Add name, address, age and traffic source to the users, none of which matter later."""
    count = len(people["id"])
    first, last = _names(rng, people["is_male"])
    place = _places(rng, count)
    mail = _text(["@example.com", "@example.net", "@example.org"], rng.integers(0, 3, count))
    return _table("users", {
        "id": people["id"],
        "first_name": first,
        "last_name": last,
        "email": _join(pc.utf8_lower(first), pc.utf8_lower(last), mail),
        "age": rng.integers(12, 71, count),
        "gender": _text(["F", "M"], people["is_male"]),
        "street_address": _streets(rng, count),
        **place,
        "traffic_source": _text(
            list(TRAFFIC_SOURCES), _pick(rng, TRAFFIC_SOURCES.values(), count)
        ),
        "created_at": _timestamps(people["created_at"]),
        "user_geom": _join(
            "POINT(", place["longitude"].cast(pa.string()),
            " ", place["latitude"].cast(pa.string()), ")",
        ),
    })


def _names(rng: np.random.Generator, is_male: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Draw first names that match the gender, and last names."""
    women, men = FIRST_NAMES["F"], FIRST_NAMES["M"]
    first = rng.integers(0, np.where(is_male == 1, len(men), len(women)))
    last = rng.integers(0, len(LAST_NAMES), len(is_male))
    return _text(women + men, first + is_male * len(women)), _text(LAST_NAMES, last)


def _streets(rng: np.random.Generator, count: int) -> pa.Array:
    """Draw street addresses such as '17 Birch Lane'."""
    names = [f" {street} {kind}" for street in STREETS for kind in STREET_KINDS]
    number = pa.array(rng.integers(1, 1_000, count)).cast(pa.string())
    return _join(number, _text(names, rng.integers(0, len(names), count)))


def _places(rng: np.random.Generator, count: int) -> dict[str, pa.Array]:
    """Draw country, state, city, postal code and a point within .2 degrees of the city.

    All places of a country are equally likely.
    """
    rows = [(country, digits, *place) for country, (_, digits, places) in COUNTRIES.items()
            for place in places]
    country_names, digits, states, cities, latitudes, longitudes = zip(*rows, strict=True)
    counts = np.array([len(places) for _, _, places in COUNTRIES.values()])
    country = _pick(rng, (share for share, _, _ in COUNTRIES.values()), count)
    row = (np.cumsum(counts) - counts)[country] + rng.integers(0, counts[country])
    digits = np.array(digits)[row]
    postal = pa.array(rng.integers(10 ** (digits - 1), 10**digits)).cast(pa.string())
    unknown = rng.integers(0, 1_000, count) < NULL_CITY_PERMILLE
    return {
        "country": _text(country_names, row),
        "state": _text(states, row),
        "city": pc.if_else(pa.array(unknown), "null", _text(cities, row)),
        "postal_code": postal,
        "latitude": _near(rng, np.array(latitudes)[row]),
        "longitude": _near(rng, np.array(longitudes)[row]),
    }


def _near(rng: np.random.Generator, degrees: np.ndarray) -> pa.Array:
    """Move coordinates by up to .2 degrees, in steps of a millionth."""
    centre = np.rint(degrees * 1_000_000).astype(np.int64)
    return pa.array((centre + rng.integers(-200_000, 200_001, len(degrees))) / 1_000_000)


# --- orders --------------------------------------------------------------------------------


def _orders(
    rng: np.random.Generator, people: dict[str, np.ndarray], now: int
) -> dict[str, np.ndarray]:
    """Draw the orders of all users: times in seconds, status as its position in STATUSES.

    Ids run in the order of the users, not of time, as in the original.
    """
    per_user = _pick(rng, ORDERS_PER_USER, len(people["id"]))
    user = np.repeat(np.arange(len(people["id"])), per_user)
    signed_up = people["created_at"][user]
    created = signed_up + rng.integers(0, now - signed_up)
    count = len(user)
    return {
        "order_id": np.arange(1, count + 1),
        "user_id": people["id"][user],
        "is_male": people["is_male"][user],
        "created_at": created,
        "num_of_item": 1 + _pick(rng, ITEMS_PER_ORDER, count),
        **_fulfilment(rng, created),
    }


def _fulfilment(rng: np.random.Generator, created: np.ndarray) -> dict[str, np.ndarray]:
    """Draw status, and ship, deliver and return times in seconds, for orders of any age.

    The times are filled for every order; `_reached` tells which of them the status has.
    """
    count = len(created)
    shipped = created + MINUTE * rng.integers(0, 3 * DAY // MINUTE, count)
    delivered = shipped + MINUTE * rng.integers(0, 5 * DAY // MINUTE, count)
    returned = delivered + MINUTE * rng.integers(0, 3 * DAY // MINUTE, count)
    return {
        "status": _pick(rng, STATUSES.values(), count),
        "shipped_at": shipped,
        "delivered_at": delivered,
        "returned_at": returned,
    }


def _reached(rows: dict[str, np.ndarray]) -> dict[str, pa.Array]:
    """Return status and its times as columns; a time that the status never reached is null."""
    status = np.array(list(STATUSES))[rows["status"]]
    return {
        "status": _text(list(STATUSES), rows["status"]),
        "shipped_at": _timestamps(
            rows["shipped_at"], np.isin(status, ["Shipped", "Complete", "Returned"])
        ),
        "delivered_at": _timestamps(
            rows["delivered_at"], np.isin(status, ["Complete", "Returned"])
        ),
        "returned_at": _timestamps(rows["returned_at"], status == "Returned"),
    }


def _orders_table(orders: dict[str, np.ndarray]) -> pa.Table:
    """Lay out the orders by their schema."""
    return _table("orders", {
        "order_id": orders["order_id"],
        "user_id": orders["user_id"],
        "gender": _text(["F", "M"], orders["is_male"]),
        "created_at": _timestamps(orders["created_at"]),
        "num_of_item": orders["num_of_item"],
        **_reached(orders),
    })


# --- order items ---------------------------------------------------------------------------


def _order_items(
    rng: np.random.Generator, orders: dict[str, np.ndarray], cents: np.ndarray
) -> dict[str, np.ndarray]:
    """Draw the items of all orders: a product for the customer's gender, at its retail price.

    Args:
        cents: retail price by product id - 1.
    """
    order = np.repeat(np.arange(len(orders["order_id"])), orders["num_of_item"])
    is_male = orders["is_male"][order]
    product = rng.integers(
        np.where(is_male == 1, WOMEN + 1, 1), np.where(is_male == 1, WOMEN + MEN, WOMEN) + 1
    )
    moved = _clicks(rng, orders["num_of_item"][order])
    copied = ("order_id", "user_id", "status", "shipped_at", "delivered_at", "returned_at")
    return {
        "id": np.arange(1, len(order) + 1),
        **{column: orders[column][order] for column in copied},
        "product_id": product,
        "inventory_item_id": _inventory_ids(rng, len(order)),
        "created_at": orders["created_at"][order] + moved,
        "cents": cents[product - 1],
    }


def _clicks(rng: np.random.Generator, num_of_item: np.ndarray) -> np.ndarray:
    """Draw by how many seconds each item's time differs from its order's.

    A visit starts up to four hours before the order. An order of one item is five clicks of
    up to three minutes each. One of n items is 3n clicks, and each item also lands 0 to 4
    whole days later: a slip of the original that a pipeline has to cope with.
    """
    count = len(num_of_item)
    clicks = np.where(num_of_item == 1, 5, 3 * num_of_item)
    most = 3 * len(ITEMS_PER_ORDER)
    seconds = rng.integers(0, 180, (count, most)) * (np.arange(most) < clicks[:, None])
    days = np.where(num_of_item == 1, 0, rng.integers(0, 5, count))
    return seconds.sum(axis=1) + DAY * days - rng.integers(0, 4 * HOUR, count)


def _inventory_ids(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return the stock ids that the items carry: each points to the last unsold copy.

    So it never meets the row of the copy that was sold; the original does the same.
    """
    return np.cumsum(1 + 1 + _pick(rng, UNSOLD_PER_ITEM, count))


def _order_items_table(items: dict[str, np.ndarray]) -> pa.Table:
    """Lay out the order items by their schema."""
    plain = ("id", "order_id", "user_id", "product_id", "inventory_item_id")
    return _table("order_items", {
        **{column: items[column] for column in plain},
        "created_at": _timestamps(items["created_at"]),
        "sale_price": items["cents"] / 100,
        **_reached(items),
    })


# --- products ------------------------------------------------------------------------------


def _products(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the catalogue: category row, brand (-1 for none), price in cents, cost, sku, centre.

    Women's products come first, each department category by category; so the position is
    the product id - 1.
    """
    women, men = (_department(rng, department) for department in ("Women", "Men"))
    count = WOMEN + MEN
    cents = np.concatenate([women["cents"], men["cents"]])
    # Cost is 33 to 67 percent of the price, most often about half.
    permille = 320 + rng.integers(0, 171, (2, count)).sum(axis=0)
    return {
        "category": np.concatenate([women["category"], men["category"]]),
        "brand": np.concatenate(_brands(rng)),
        "cents": cents,
        "cost": cents * permille / 100_000,
        "sku": _skus(rng, count),
        "style": rng.integers(0, len(STYLES), count),
        "article": rng.integers(0, 6, count),
        "distribution_center_id": rng.integers(1, DISTRIBUTION_CENTERS + 1, count),
    }


def _department(rng: np.random.Generator, department: str) -> dict[str, np.ndarray]:
    """Draw category (position in the department) and price in cents of one department.

    The prices follow the department's curve exactly; which product gets which price is drawn,
    with dearer categories ahead.
    """
    rows = CATEGORIES[department].values()
    sizes = [size for size, _, _ in rows]
    category = np.repeat(np.arange(len(sizes)), sizes)
    typical = np.array([price for _, price, _ in rows])[category]
    spread = rng.integers(15, 101, (2, len(category))).prod(axis=0)
    rank = np.argsort(np.argsort(typical * spread, kind="stable"), kind="stable")
    prices = _price_list(PRICE_CURVES[department], len(category))[rank]
    return {"category": category, "cents": _round_prices(rng, prices)}


def _price_list(curve: tuple[tuple[int, int], ...], count: int) -> np.ndarray:
    """Return `count` rising prices in cents along a curve, by straight lines, in integers."""
    permille, cents = (np.array(side) for side in zip(*curve, strict=True))
    # position along the curve in (1 / count) of a per mille, from 0 to 1,000 * count
    position = np.arange(count) * 1_000 * count // (count - 1)
    left = np.searchsorted(permille * count, position, side="right") - 1
    left = np.minimum(left, len(curve) - 2)
    width = np.diff(permille)[left] * count
    return cents[left] + np.diff(cents)[left] * (position - permille[left] * count) // width


def _round_prices(rng: np.random.Generator, cents: np.ndarray) -> np.ndarray:
    """Move prices from 5 to 300 dollars to the nearest that ends as shops like it."""
    endings = np.array([*PRICE_ENDINGS, 0])
    kind = _pick(rng, [*PRICE_ENDINGS.values(), PRICES_AS_DRAWN], len(cents))
    as_drawn = (kind == len(PRICE_ENDINGS)) | (cents < 500) | (cents > 30_000)
    nearest = (cents - endings[kind] + 50) // 100 * 100 + endings[kind]
    return np.where(as_drawn, cents, nearest)


def _brands(rng: np.random.Generator) -> list[np.ndarray]:
    """Draw the brands (positions in BRANDS, -1 for none) of women's, then of men's products.

    Every brand has at least one product. The rest falls to them by a Zipf law: a few brands
    have hundreds, half of them one or two.
    """
    side = _pick(rng, BRAND_DEPARTMENTS, len(BRANDS))
    weight = 1_000_000 // (np.arange(len(BRANDS)) + 8)
    order = rng.permutation(len(BRANDS))  # else the large brands would share a first word
    drawn = []
    for department, count, other in (("Women", WOMEN, 1), ("Men", MEN, 0)):
        pool = np.flatnonzero(side != other)
        rest = pool[_pick(rng, weight[pool], count - len(pool) - NO_BRAND[department])]
        none = np.full(NO_BRAND[department], -1)
        named = np.concatenate([order[pool], order[rest], none])
        drawn.append(rng.permutation(named))
    return drawn


def _skus(rng: np.random.Generator, count: int) -> list[str]:
    """Draw stock-keeping units of 32 upper-case hexadecimal digits."""
    digits = rng.bytes(16 * count).hex().upper()
    return [digits[start : start + 32] for start in range(0, 32 * count, 32)]


def _products_table(products: dict[str, np.ndarray]) -> pa.Table:
    """Lay out the products by their schema."""
    department = np.repeat([0, 1], [WOMEN, MEN])
    brand = pa.array(
        [BRANDS[row] if row >= 0 else None for row in products["brand"].tolist()], pa.string()
    )
    labels = list(CATEGORIES["Women"]) + list(CATEGORIES["Men"])
    row = products["category"] + department * len(CATEGORIES["Women"])
    return _table("products", {
        "id": np.arange(1, WOMEN + MEN + 1),
        "cost": products["cost"],
        "category": _text(labels, row),
        "name": _product_names(products, brand, department, row),
        "brand": brand,
        "retail_price": products["cents"] / 100,
        "department": _text(["Women", "Men"], department),
        "sku": pa.array(products["sku"]),
        "distribution_center_id": products["distribution_center_id"],
    })


def _product_names(
    products: dict[str, np.ndarray], brand: pa.Array, department: np.ndarray, row: np.ndarray
) -> pa.Array:
    """Return names such as "Cedar Loom Women's Striped Wrap Dress", null for two products."""
    articles = [articles for rows in CATEGORIES.values() for _, _, articles in rows.values()]
    every = [articles_of[turn % len(articles_of)] for articles_of in articles for turn in range(6)]
    name = _join(
        pc.if_else(pc.is_null(brand), "", pc.binary_join_element_wise(brand, "", " ")),
        _text(["Women's ", "Men's "], department),
        _text([f"{style} " for style in STYLES], products["style"]),
        _text(every, row * 6 + products["article"]),
    )
    nameless = np.isin(np.arange(1, WOMEN + MEN + 1), NAMELESS)
    return pc.if_else(pa.array(nameless), pa.scalar(None, pa.string()), name)


# --- columns and tables --------------------------------------------------------------------


def _text(values, position: np.ndarray) -> pa.Array:
    """Return the values at the positions, as strings."""
    return pa.array(values, pa.string()).take(pa.array(position))


def _join(*parts) -> pa.Array:
    """Join strings row by row; a part is a column, or a text that every row shares."""
    return pc.binary_join_element_wise(*parts, "")


def _timestamps(seconds: np.ndarray, known: np.ndarray | None = None) -> pa.Array:
    """Return seconds since 1970 as UTC timestamps, null where `known` is false."""
    missing = None if known is None else ~known
    return pa.array(seconds * 1_000_000, pa.int64(), mask=missing).cast(ARROW_TYPES["TIMESTAMP"])


def _table(name: str, columns: dict) -> pa.Table:
    """Lay out columns in the order and types of the table's schema; it names every one."""
    schema = pa.schema([(column, ARROW_TYPES[kind]) for column, kind in SCHEMAS[name]])
    return pa.table([columns[column] for column in schema.names], schema=schema)
