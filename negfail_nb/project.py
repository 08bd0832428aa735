"""A project: a profile's settings, and where its results go. It knows no stage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from negfail_nb.content import counted
from negfail_nb.environment import environment
from negfail_nb.kept import described, kept
from negfail_nb.runs import Place, make_plan
from negfail_nb.settings import Checked, Profile, get_profile, profiles
from negfail_nb.settings.profile import DATA
from negfail_nb.source import package_hash


@dataclass(frozen=True, slots=True)
class Project:
    """The settings of a profile, used in one folder.

    ``project.quality``, ``project.train`` and so on are the profile's settings, with paths as seen
    from here.

    Attributes
    ----------
    profile
        Settings of all stages, as they were given.
    home
        The project folder: ``runs/`` is made in it, and relative paths in settings start from it.
    kept, changes
        What differs from the named profile: kept in ``settings.json``, and given beside.
    """

    profile: Profile
    home: Path
    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        lines = [f"profile {self.profile.name}, results in {self.results}"]
        for text, changes in (("kept in settings.json", self.kept), ("set here", self.changes)):
            if changes:
                lines.append(f"{text}: {described(changes)}")
        return "\n".join(lines)

    def __getattr__(self, stage: str) -> Any:
        known = [f.name for f in fields(Profile) if f.name != "name"]
        if stage not in known:
            raise AttributeError(f"a project has no stage {stage!r}; it has {', '.join(known)}")
        return self._at_home(getattr(self.profile, stage))

    @property
    def logs(self) -> tuple[Path, ...]:
        """The log files and folders of the profile; none if it makes its own."""
        return tuple(Path(name) for name in self.collect.logs)

    @property
    def data(self) -> Path:
        """The folder of data sets: ``$NEGFAIL_NB_DATA``, else ``data`` in the project folder."""
        return self.home / (os.environ.get(DATA) or "data")

    @property
    def name(self) -> str:
        """The profile's name; with ``-own`` behind it where settings differ from that profile, so
        that results of one's own do not take the place of others.
        """
        own = "" if self.profile == self.named else "-own"
        return f"{self.profile.name}{own}"

    @property
    def named(self) -> Profile:
        """The profile of this name as it comes; a profile of one's own is its own."""
        return profiles(self.home).get(self.profile.name, self.profile)

    @property
    def results(self) -> Path:
        """Where what people look at lies: figures, the report, executed notebooks."""
        return self.home / "runs" / self.name

    @property
    def figures(self) -> Path:
        """Where the figures go."""
        return self.results / "figures"

    @property
    def report(self) -> Path:
        """Where the report of the claims goes, and the record of its corrections."""
        return self.results / "report"

    def folder(self, name: str) -> Place:
        """Return where the runs of one name lie; functions that take long write there.

        Each plan (settings, content of the inputs, source of the function) gets a folder of its
        own, ``runs/<profile>/<name>/<time>-<fingerprint>``. The same plan is not computed twice.
        """
        return Place(self.home / "runs", f"{self.profile.name}/{name}")

    def using(self, *settings: Checked) -> Project:
        """Return the same project with other settings for some stages, such as those of a form."""
        return replace(self, profile=self.profile.using(*settings))

    def origin(self, *stages: str, **inputs: Any) -> dict[str, Any]:
        """Return what a figure comes from that no run folder stands behind.

        Parameters
        ----------
        stages
            Those whose settings count.
        inputs
            Files, runs, or what has a hash of its own as ``content``.
        """
        settings = {stage: counted(getattr(self, stage)) for stage in stages}
        plan = make_plan("", settings, inputs, package_hash())
        kept = {name: plan[name] for name in ("settings", "inputs", "source")}
        return {"profile": self.profile.name, **kept, "environment": environment()}

    def _at_home(self, settings: Checked) -> Checked:
        """Return settings whose files are named as seen from here.

        What is no file of the project keeps its name: it may be one on the hub, or of the package.
        """
        changed = {}
        for f in fields(settings):
            value = getattr(settings, f.name)
            if f.metadata.get("path") and value and value not in f.metadata.get("names", ()):
                changed[f.name] = self._path(value)
        return replace(settings, **changed) if changed else settings

    def _path(self, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple):
            return tuple(self._path(part) for part in value)
        path = self.home / Path(value).expanduser()
        return str(path) if path.exists() else value


def open_project(
    profile: str | Profile = "pocket",
    home: str | Path = ".",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Project:
    """Return a profile in a project folder.

    Parameters
    ----------
    profile
        A profile, or the name of one, with what is kept for it in ``settings.json``.
    home
        The project folder.
    changes
        Settings that differ from the profile's, by stage: ``{"train": {"epochs": 3}}``.

    Raises
    ------
    ValueError
        For a profile, stage or setting that does not exist; the text lists those that do.
    """
    given = dict(changes or {})
    if isinstance(profile, Profile):
        return Project(profile.change(**given), Path(home), {}, given)
    own = kept(home, profile)
    chosen = get_profile(profile, home).change(**own).change(**given)
    return Project(chosen, Path(home), own, given)
