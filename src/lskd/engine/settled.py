"""Settings of a method that follow from its teacher, found before the training."""

from __future__ import annotations

from torch import Tensor

from lskd.engine.capture import GATE
from lskd.engine.seeds import generator_for
from lskd.engine.shared import Images
from lskd.engine.teacher import Teacher
from lskd.methods import Lesson
from lskd.run import Run


def settled(run: Run, teacher: Teacher | None, images: Images, classes: int) -> tuple[Run, dict[str, float]]:
    """`run`, whose method has nothing left to solve (`Method.settle`), and what was found, by name. It keeps its id.

    The teacher is asked about every training image through its view of the first epoch. It gives the same answers each
    time, so that a run that is gone on with finds the same.
    """
    method = run.method.settings
    if not method.to_solve or teacher is None:
        return run, {}
    logits = list(teacher.everything(first_views(run, images)))
    with GATE.eager():
        found = method.settle(Lesson(logits, images.labels, run.target.settings.rows(classes).to(images.labels.device)))
    return run.settled(found), {name: getattr(found, name) for name in method.to_solve}


def first_views(run: Run, images: Images) -> Tensor:
    """The view (N,) of each training image in the first epoch: what is reckoned of a teacher is of these."""
    return images.train.draw(generator_for(run.data_stream, "augment", 0))
