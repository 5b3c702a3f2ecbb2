"""The table products."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.localcloud.thelook.draw import VALUES, WEIGHTS, WORDS, Columns, join, lay_out, pick, text

CATEGORIES = VALUES["categories"]
WOMEN, MEN = (sum(count for count, _, _ in CATEGORIES[department].values())
              for department in ("Women", "Men"))  # 15,989 and 13,131
BRANDS = [f"{start} {end}" for start in WORDS["brand_starts"] for end in WORDS["brand_ends"]]
NO_BRAND = 12  # products of each department
NAMELESS = (10_000, 20_000)  # product ids
DISTRIBUTION_CENTERS = 10


def draw(rng: np.random.Generator) -> Columns:
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
        "style": rng.integers(0, len(WORDS["styles"]), count),
        "article": rng.integers(0, 6, count),
        "distribution_center_id": rng.integers(1, DISTRIBUTION_CENTERS + 1, count),
    }


def _department(rng: np.random.Generator, department: str) -> Columns:
    """Draw category (position in the department) and price in cents of one department.

    The prices follow the department's curve exactly; which product gets which price is drawn,
    with higher prices for expensive categories.
    """
    rows = CATEGORIES[department].values()
    sizes = [size for size, _, _ in rows]
    category = np.repeat(np.arange(len(sizes)), sizes)
    typical = np.array([price for _, price, _ in rows])[category]
    spread = rng.integers(15, 101, (2, len(category))).prod(axis=0)
    rank = np.argsort(np.argsort(typical * spread, kind="stable"), kind="stable")
    prices = _price_list(VALUES["price_curves"][department], len(category))[rank]
    return {"category": category, "cents": _round_prices(rng, prices)}


def _price_list(curve: list[list[int]], count: int) -> np.ndarray:
    """`count` rising prices in cents along a curve, interpolated linearly in integers."""
    permille, cents = (np.array(side) for side in zip(*curve, strict=True))
    # position along the curve in (1 / count) of a per mille, from 0 to 1,000 * count
    position = np.arange(count) * 1_000 * count // (count - 1)
    left = np.searchsorted(permille * count, position, side="right") - 1
    left = np.minimum(left, len(curve) - 2)
    width = np.diff(permille)[left] * count
    return cents[left] + np.diff(cents)[left] * (position - permille[left] * count) // width


def _round_prices(rng: np.random.Generator, cents: np.ndarray) -> np.ndarray:
    """Move prices from 5 to 300 dollars to the nearest with a usual ending."""
    endings = np.array([int(ending) for ending in WEIGHTS["price_endings"]])
    ending = endings[pick(rng, WEIGHTS["price_endings"].values(), len(cents))]
    as_drawn = (ending < 0) | (cents < 500) | (cents > 30_000)
    return np.where(as_drawn, cents, (cents - ending + 50) // 100 * 100 + ending)


def _brands(rng: np.random.Generator) -> list[np.ndarray]:
    """Draw the brands (positions in BRANDS, -1 for none) of women's, then of men's products.

    Every brand has at least one product. The rest is spread by a Zipf law: a few brands have
    hundreds, half of them one or two.
    """
    side = pick(rng, WEIGHTS["brand_departments"], len(BRANDS))
    weight = 1_000_000 // (np.arange(len(BRANDS)) + 8)
    order = rng.permutation(len(BRANDS))  # otherwise the large brands would share a first word
    drawn = []
    for count, other in ((WOMEN, 1), (MEN, 0)):
        pool = np.flatnonzero(side != other)
        rest = pool[pick(rng, weight[pool], count - len(pool) - NO_BRAND)]
        none = np.full(NO_BRAND, -1)
        named = np.concatenate([order[pool], order[rest], none])
        drawn.append(rng.permutation(named))
    return drawn


def _skus(rng: np.random.Generator, count: int) -> list[str]:
    """Draw stock-keeping units of 32 upper-case hexadecimal digits."""
    digits = rng.bytes(16 * count).hex().upper()
    return [digits[start : start + 32] for start in range(0, 32 * count, 32)]


def table(products: Columns) -> pa.Table:
    """The products, in the columns of their schema."""
    department = np.repeat([0, 1], [WOMEN, MEN])
    brand = pa.array(
        [BRANDS[row] if row >= 0 else None for row in products["brand"].tolist()], pa.string()
    )
    labels = list(CATEGORIES["Women"]) + list(CATEGORIES["Men"])
    row = products["category"] + department * len(CATEGORIES["Women"])
    return lay_out("products", {
        "id": np.arange(1, WOMEN + MEN + 1),
        "cost": products["cost"],
        "category": text(labels, row),
        "name": _product_names(products, brand, department, row),
        "brand": brand,
        "retail_price": products["cents"] / 100,
        "department": text(["Women", "Men"], department),
        "sku": pa.array(products["sku"]),
        "distribution_center_id": products["distribution_center_id"],
    })


def _product_names(
    products: Columns, brand: pa.Array, department: np.ndarray, row: np.ndarray
) -> pa.Array:
    """Names such as "Cedar Loom Women's Striped Wrap Dress", null for two products."""
    articles = [articles for rows in CATEGORIES.values() for _, _, articles in rows.values()]
    every = [articles_of[turn % len(articles_of)] for articles_of in articles for turn in range(6)]
    name = join(
        pc.if_else(pc.is_null(brand), "", pc.binary_join_element_wise(brand, "", " ")),
        text(["Women's ", "Men's "], department),
        text([f"{style} " for style in WORDS["styles"]], products["style"]),
        text(every, row * 6 + products["article"]),
    )
    nameless = np.isin(np.arange(1, WOMEN + MEN + 1), NAMELESS)
    return pc.if_else(pa.array(nameless), pa.scalar(None, pa.string()), name)
