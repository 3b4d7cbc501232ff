"""Where each setting of a run comes from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from lskd.compose import GROUPS, SAME, peer_form, started_form, teacher_form
from lskd.config_groups import Conf, labelled, merge
from lskd.networks import PEERS
from lskd.run import LINEAGE, Run
from lskd.schema import unfolded

DEFAULT, INHERITED, UNTRAINED = "default", "student's", "nothing is trained"
OF_RUN = "the run's"  # of a peer's settings
SEEN = ("recipe.augment.", "recipe.normalize.", "recipe.precision")  # what counts of a recipe of 0 epochs


def origins(run: Run, form: Mapping[str, Any], said: Mapping[str, Any], conf: Conf) -> Iterator[tuple[str, Any, str]]:
    """Each setting of `run` (`Run.settings`, and the recipe's name), its value, and where that comes from: what `said`
    has in its place; a file of conf/; the class's default; or, of a teacher, what its student has.

    `form` is the settings of the run in normal form, and `said` in the same places where each was given. Of a chain of
    generations these are the settings of the first, which all have, and how many there are."""
    if (generations := form.get("generations") or 1) > 1:
        for _ in range(generations - 1):
            assert run.teacher is not None  # the form says so
            run = run.teacher
        of_all = {key: value for key, value in said.items() if key != "generations"}
        yield from origins(run, {**form, "generations": None}, of_all, conf)
        yield "generations", generations, said.get("generations", DEFAULT)
        return
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
    rest = {key: value for key, value in said.items() if key not in (*GROUPS, *LINEAGE, *PEERS)}
    found |= unfolded(rest)
    for key, value in {"recipe.name": run.recipe.name, **run.settings}.items():
        if key.partition(".")[0] not in (*LINEAGE, *PEERS):
            if key.startswith("recipe.") and not run.recipe.trains and not key.startswith(SEEN):
                yield key, value, UNTRAINED
                continue
            if key == "start.digest":
                yield key, value, found.get("start.", DEFAULT)  # where the word stands
                continue
            below = [origin for name, origin in found.items() if name.startswith(f"{key}.")]
            yield key, value, found.get(key) or ", ".join(dict.fromkeys(below)) or DEFAULT
    forms = {"started_from": started_form, "teacher": teacher_form}
    for name in LINEAGE:
        if (parent := getattr(run, name)) is None:
            continue
        if form.get(name) is None:  # named by its id
            yield from (
                (f"{name}.{key}", value, found.get("start.", DEFAULT)) for key, value in parent.settings.items()
            )
            continue
        of_student = labelled(
            {key: value for key, value in said.items() if key not in (*LINEAGE, "generations")}, INHERITED
        )
        own = forms[name]({**of_student, name: said[name]})
        for key, value, origin in origins(parent, forms[name](form), own, conf):
            yield f"{name}.{key}", value, origin
    of_run = labelled({key: value for key, value in said.items() if key not in (*LINEAGE, *PEERS)}, OF_RUN)
    for word, peer in zip(PEERS, run.peers, strict=False):
        its = copy.deepcopy(said["peer"] if form.get(word) is None else said[word])
        if (form.get(word) or form["peer"]).get("arch", {}).get("") == SAME:
            del its["arch"][""]
        seeds = {"seed": OF_RUN, "data_seed": OF_RUN}
        own = {**seeds, **peer_form({**of_run, word: its}, word)}
        for key, value, origin in origins(peer, peer_form(form, word), own, conf):
            yield f"{word}.{key}", value, origin


def teacher_of(form: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`teacher_form` of a run's settings, and of where each was given."""
    if (form.get("generations") or 1) > 1:
        return teacher_form(form), dict(said)
    return teacher_form(form), teacher_form({key: value for key, value in said.items() if key != "generations"})
