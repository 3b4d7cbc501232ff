"""Where each setting of a run comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lskd.compose import GROUPS, teacher_form
from lskd.config_groups import Conf, labelled, merge
from lskd.run import Run
from lskd.schema import unfolded

DEFAULT, INHERITED = "default", "student's"


def origins(run: Run, form: Mapping[str, Any], said: Mapping[str, Any], conf: Conf) -> Iterator[tuple[str, Any, str]]:
    """Each setting of `run` (`Run.settings`, and the recipe's name), its value, and where that comes from: what `said`
    has in its place; a file of conf/; the class's default; or, of a teacher, what its student has.

    `form` is the settings of the run in normal form, and `said` in the same places where each was given."""
    found: dict[str, str] = {}
    for group in GROUPS:
        given, words = form.get(group, {}), dict(said.get(group, {}))
        chosen, name = words.pop("", DEFAULT), given.get("")
        if name is None and group == "recipe":
            usual = form["dataset"][""]
            name, chosen = conf.load("dataset", usual).get("recipe"), f"usual with dataset={usual}"
        tree = {} if name is None else conf.origins(group, name)
        merge(tree, words)
        found |= {f"{group}.{key}": origin for key, origin in unfolded({**tree, "name": chosen}).items()}
    rest = {key: value for key, value in said.items() if key not in (*GROUPS, "teacher", "started_from")}
    found |= unfolded(rest)
    for key, value in {"recipe.name": run.recipe.name, **run.settings}.items():
        if not key.startswith(("teacher.", "started_from.")):
            below = [origin for name, origin in found.items() if name.startswith(f"{key}.")]
            yield key, value, found.get(key) or ", ".join(dict.fromkeys(below)) or DEFAULT
    if run.teacher is not None:
        of_student = labelled({key: value for key, value in said.items() if key != "teacher"}, INHERITED)
        own = teacher_form({**of_student, "teacher": said["teacher"]})
        for key, value, origin in origins(run.teacher, teacher_form(form), own, conf):
            yield f"teacher.{key}", value, origin
