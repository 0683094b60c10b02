"""Messages for values of a configuration that pydantic refuses."""

from pydantic import ValidationError

from ionmodel.config.keys import example

_REQUIRED = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "too_short": "a list of at least one value",
    "literal_error": "{expected}",
    "tuple": "a list",
    "dict": "a table",
    "string": "a word",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "finite_number": "a finite number",
}
"""Requirements by the type of pydantic's error, or by the first word of that type."""


def message_of(error: ValidationError) -> str:
    """Return the requirement and the value of the first error, with an example."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # raised by our own validators, in full sentences
        sentence = str(first["ctx"]["error"])
        return f"{first['loc'][0]} {sentence}, got {first['input']!r}" if first["loc"] else sentence
    key, *inside = first["loc"]
    way_on = f"give for example -o {example(str(key), shell=True)}"
    if first["type"] == "missing":
        return f"{key} must be given; {way_on}"
    where = str(key) + "".join(f"[{part!r}]" for part in inside)
    kind = first["type"]
    context = {
        name: f"{bound:g}" if isinstance(bound, float) else bound
        for name, bound in first.get("ctx", {}).items()
    }
    required = _REQUIRED.get(kind) or _REQUIRED.get(kind.partition("_")[0])
    # pydantic's own words are better than none for a type that the table lacks.
    required = required.format(**context) if required else f"otherwise ({first['msg']})"
    return f"{where} must be {required}, got {first['input']!r}; {way_on}"
