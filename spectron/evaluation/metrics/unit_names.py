"""Names, symbols and abbreviations of units, currencies and powers of ten. All lists are ours."""

from __future__ import annotations

import re

SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # zeros
SCALE_LETTERS = {"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion", "tn": "trillion"}
CURRENCIES = {  # symbol → names of the unit and of its part
    "$": ("dollars", "cents"),
    "£": ("pounds", "pence"),
    "€": ("euros", "cents"),
    "¥": ("yen", "sen"),
    "₹": ("rupees", "paise"),
}
COMPOUNDS = {"foot": ("inch",), "dollar": ("cent",), "euro": ("cent",), "pound": ("penny", "ounce")}

# Read in this order; only where a number comes before.
SYMBOLS = (
    (re.compile(r"(?<=\d)\s?°\s?C\b"), " degrees celsius "),
    (re.compile(r"(?<=\d)\s?°\s?F\b"), " degrees fahrenheit "),
    (re.compile(r"(?<=\d)\s?°"), " degrees "),
    (re.compile(r"(?<=\d)\s?¢"), " cents "),
    (re.compile(r"(?<=\d)\s?km\s?/\s?h(?:r)?\b"), " kilometers per hour "),
    (re.compile(r"(?<=\d)\s?m\s?/\s?s\b"), " meters per second "),
    (re.compile(r"(?<=\d)\s?(k?m|cm|mm|mi|ft|in)(?:²|\^?2\b)"), r" square \1 "),
    (re.compile(r"(?<=\d)\s?(k?m|cm|mm|mi|ft|in)(?:³|\^?3\b)"), r" cubic \1 "),
)
PER_HOUR = {"mph": "mile per hour", "kph": "kilometer per hour", "kmh": "kilometer per hour"}


def _units() -> dict[str, str]:
    """Every name and abbreviation → the singular in American spelling."""
    table = {
        "meter": "m metre", "centimeter": "cm centimetre", "millimeter": "mm millimetre", "kilometer": "km kilometre",
        "gram": "g gramme", "kilogram": "kg kilo kilogramme", "milligram": "mg milligramme", "ton": "tonne",
        "liter": "l litre", "milliliter": "ml millilitre", "gallon": "gal", "pint": "", "mile": "mi", "yard": "yd",
        "pound": "lb lbs gbp", "ounce": "oz", "acre": "", "hectare": "ha", "hertz": "hz", "kilohertz": "khz",
        "megahertz": "mhz", "gigahertz": "ghz", "kilobyte": "kb", "megabyte": "mb", "gigabyte": "gb", "terabyte": "tb",
        "watt": "w", "kilowatt": "kw", "megawatt": "mw", "volt": "v", "hour": "hr hrs", "minute": "min mins",
        "degree": "deg", "dollar": "usd", "cent": "", "euro": "eur", "rupee": "inr", "knot": "kn",
    }  # fmt: skip
    units: dict[str, str] = {}
    for name, others in table.items():
        for each in (name, *others.split()):
            units |= {each: name, each + "s": name} if len(each) > 3 else {each: name}
    irregular = {"foot": "foot feet ft", "inch": "inch inches", "penny": "penny pence pennies", "yen": "yen jpy"}
    units |= {each: name for name, others in irregular.items() for each in others.split()}
    # Not "second", which is an ordinal too.
    return units | dict.fromkeys(("seconds", "sec", "secs"), "seconds") | PER_HOUR | {"percent": "percent"}


UNITS = _units()
