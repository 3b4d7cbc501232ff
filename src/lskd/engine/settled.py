"""Settings of a method that follow from its teacher, found before the training."""

from __future__ import annotations

import torch
from torch import Tensor

from lskd.engine.capture import GATE
from lskd.engine.seeds import generator_for
from lskd.engine.tasks import Task
from lskd.engine.teacher import Teacher
from lskd.methods import Lesson
from lskd.run import Run


def settled(run: Run, teacher: Teacher | None, task: Task, classes: int) -> tuple[Run, dict[str, float]]:
    """`run`, whose method has nothing left to solve (`Method.settle`), and what was found, by name. It keeps its id.

    The teacher is asked about every training image through its view of the first epoch. It gives the same answers each
    time, so that a run that is gone on with finds the same.
    """
    method = run.method.settings
    if not method.to_solve or teacher is None:
        return run, {}
    logits, labels = zip(*task.lessons(teacher, first_views(run, task)), strict=True)
    with GATE.eager():
        rows = run.target.settings.rows(torch.arange(classes, device=task.device), classes)
        found = method.settle(Lesson(logits, torch.cat(labels), rows))
    return run.settled(found), {name: getattr(found, name) for name in method.to_solve}


def first_views(run: Run, task: Task) -> Tensor:
    """The view (N,) of each training image in the first epoch: what is reckoned of a teacher is of these."""
    return task.train.draw(generator_for(run.data_stream, "augment", 0))
