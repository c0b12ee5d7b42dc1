"""Print a JSON schema that refuses names it does not know: `make lint-deploy`.

A chart's schema says of which kind a value is, but takes any name: a typing error would pass.
"""

import json
import sys
from pathlib import Path
from typing import Any


def closed(schema: Any) -> Any:
    """Return a schema whose objects with named properties have no others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        parts.setdefault("additionalProperties", False)
    return parts


if __name__ == "__main__":
    print(json.dumps(closed(json.loads(Path(sys.argv[1]).read_text()))))
