"""``python -m negfail_nb.logs PATH ..``: what logs hold, and how our grader sees their labels."""

from __future__ import annotations

import sys

from negfail_nb.logs.agreement import label_agreement
from negfail_nb.logs.loading import load_trajectories


def main(paths: list[str]) -> int:
    """Write counts and disagreements of the logs at ``paths`` to the standard output.

    Returns
    -------
    int
        0, or 2 if no path was given or one does not exist.
    """
    if not paths:
        sys.stderr.write("usage: python -m negfail_nb.logs PATH ..\n")
        return 2
    for path in paths:
        try:
            logs = load_trajectories(path)
        except FileNotFoundError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        table = label_agreement(logs)
        kinds = table.groupby(["format", "task", "label", "kind"]).size()
        lines = [logs.table().to_string(index=False)]
        lines.append(f"{path}: {len(table)} of {table.attrs['compared']} disagree")
        lines += [kinds.to_string(), table.to_string(max_colwidth=60)] if len(table) else []
        sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
