"""``python -m negfail_nb.speed.gpu``: measure this machine's card into one JSON, in under ten
minutes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from negfail_nb.speed.gpu.run import measure_card
from negfail_nb.speed.gpu.settings import CardSettings
from negfail_nb.speed.gpu.show import summary_lines


def main(words: list[str] | None = None) -> int:
    """Measure, and say what came of it; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    asked = vars(_parser().parse_args(words))
    out, small = Path(asked.pop("out")), asked.pop("small")
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        start = CardSettings.small(given.pop("model", "pocket-llama")) if small else CardSettings()
        found = measure_card(_changed(start, given), out)
    except (ValueError, FileExistsError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; what was measured before is in {out}\n")
        return 130
    sys.stdout.write("\n".join([*summary_lines(found), f"written to {out}", ""]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m negfail_nb.speed.gpu", description=__doc__)
    parser.add_argument(
        "--out", default="card.json", help="the JSON to write; it must not be there yet"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="a very small model on the CPU, in seconds: to try it out",
    )
    for field in fields(CardSettings):
        many = field.metadata.get("items")
        kind = many or type(field.default)
        about = f"{field.metadata['help']} (default: {field.default})"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, nargs="+" if many else None, help=about
        )
    return parser


def _changed(settings: CardSettings, given: dict[str, Any]) -> CardSettings:
    from dataclasses import replace

    return replace(
        settings, **{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    )


if __name__ == "__main__":
    sys.exit(main())
