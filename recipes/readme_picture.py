"""Run the ten lines of the README and save their figure: ``python -m recipes.readme_picture``."""

import os
import re
import tempfile
from pathlib import Path

from negfail_nb import views

HOME = Path(__file__).parents[1]


def main() -> None:
    """Write ``figures/readme.png`` with its pdf, csv and json."""
    (lines,) = re.findall(r"```python\n(.*?)```", (HOME / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        exec(lines, names)
        table = views.curve_table({"nat": names["run"].history})
        views.save_figure(names["figure"], table, "readme", HOME / "figures", names["run"])


if __name__ == "__main__":
    main()
