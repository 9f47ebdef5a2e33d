"""Summarises sales: the event holds the text of a CSV file with the columns
date, region, product, units, unit_price.

    sandbox run examples/summarise.py --event '{"csv": "date,region,…"}'
"""

import csv
import io
from collections import defaultdict
from decimal import Decimal


def handler(event):
    rows = list(csv.DictReader(io.StringIO(event["csv"])))
    regions = defaultdict(Decimal)
    months = defaultdict(Decimal)
    products = defaultdict(int)
    for row in rows:
        revenue = int(row["units"]) * Decimal(row["unit_price"])
        regions[row["region"]] += revenue
        months[row["date"][:7]] += revenue
        products[row["product"]] += int(row["units"])
    best_month = max(months, key=months.get)
    print(f"read {len(rows)} rows")
    return {
        "rows": len(rows),
        "total": float(sum(regions.values())),
        "regions": {name: float(regions[name]) for name in sorted(regions)},
        "best_month": {"month": best_month, "revenue": float(months[best_month])},
        "best_seller": max(products, key=products.get),
    }
