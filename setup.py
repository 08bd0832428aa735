"""Everything is in pyproject.toml; here only the notebooks are put into a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

NOTEBOOKS = [*sorted(Path("notebooks").glob("[0-9][0-9]_*.ipynb")), Path("notebooks/start.md")]


class BuildWithNotebooks(build_py):
    """A wheel has the notebooks in the package, so `negfail_nb start` can lay them anywhere."""

    def run(self):
        super().run()
        if not self.editable_mode:  # an editable install finds them beside the package
            target = Path(self.build_lib, "negfail_nb", "_notebooks")
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for path in NOTEBOOKS:
                shutil.copy(path, target)


class SdistWithNotebooks(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, [*files, *map(str, NOTEBOOKS)])


setup(cmdclass={"build_py": BuildWithNotebooks, "sdist": SdistWithNotebooks})
