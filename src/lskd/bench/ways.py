"""The ways to train one pair of networks, ready to be timed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from lskd.bench.cases import (
    AS_IT_COMES,
    CACHED,
    CE,
    CPU_EXAMPLES,
    FILLING,
    LIVE,
    PUBLIC,
    STEPS,
    TEACHER,
    USUAL_CE,
    USUAL_KD,
    Case,
    Options,
)
from lskd.bench.clock import WARM_UP, calibrated, switch
from lskd.bench.machine import timed
from lskd.bench.reference import UsualLoop
from lskd.bench.runs import as_public_code, at_precision, synthetic, without_teacher
from lskd.bench.work import KERNEL_STEPS
from lskd.data import Spec
from lskd.engine import Shared, device_bytes, run_bytes
from lskd.engine.capture import WARM_UP as EAGER
from lskd.engine.capture import Captured, new_stream, on_stream
from lskd.engine.member import build_network
from lskd.engine.shared import LogitCache
from lskd.engine.tasks import Task
from lskd.engine.teacher import Teacher, placed
from lskd.engine.training import Training
from lskd.environment import available_cores
from lskd.methods import Batch
from lskd.run import Run
from lskd.targets.distributions import smooth_labels

T = TypeVar("T")


class Pair:
    """A student and its teacher on a device, with all that the ways to train them share."""

    def __init__(self, run: Run, spec: Spec, device: torch.device, options: Options) -> None:
        self.run, self.spec, self.device, self.options = run, spec, device, options
        self.notes: list[str] = []
        self.stack = contextlib.ExitStack()
        examples = options.examples or (CPU_EXAMPLES if device.type == "cpu" else spec.train)
        self.parts = synthetic(spec, examples)
        shared = Shared(device, teacher_memory=device_bytes(device)[0] / 2)
        self.task = shared.task(run, self.parts)
        self.cache: LogitCache | None = None
        self.teacher: nn.Module | None = None
        if run.teacher is not None:
            self.teacher = build_network(run.teacher, spec)
            self.cache = self.stack.enter_context(shared.logit_cache(run, self.task.train, spec.num_classes))
            if self.cache is None:
                self.notes.append(f"{FILLING}, {CACHED}: skipped, half of the free memory does not hold the logits")
            else:  # as after many epochs: all is known
                self.cache.logits.normal_()
                self.cache.known.fill_(True)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def cases(self, say: Callable[[str], None]) -> list[Case]:
        """All ways to train that were asked for, warmed up."""
        cases: list[Case] = []
        if self.options.usual:
            cases += self.usual()
        for precision in self.options.precisions:
            run = at_precision(self.run, precision)
            switch(precision, self.options)
            cases += self.fleets(CE, without_teacher(run))
            if run.teacher is None:
                continue
            if 1 in self.options.fleets:
                live = replace(run, teacher_mode="batch_stats")
                runner, memory = self.runner(live)
                cases.append(Case(LIVE, precision, 1, side_by_side([runner]), 1, [runner], memory))
            if self.cache is not None:
                cached = self.fleets(CACHED, run)
                cases += cached
                if 1 in self.options.fleets:
                    cases.append(Case(TEACHER, precision, 1, self.evaluation(precision), 1))
        for case in cases:
            say(f"{case}: warming up")
            switch(case.precision, self.options)
            most = STEPS // (2 * (self.options.repeats + 1) * len(self.options.fleets))
            case.steps = calibrated(self.device, case.work, self.options.seconds, most)
        return cases

    def usual(self) -> list[Case]:
        """The reference loop at each precision, and as public codes leave it: one training each of CE and of KD, for
        its speed does not depend on what it was before."""
        workers = min(8, available_cores())
        settle = 2 * workers  # past the batches that the workers have prepared in other cases' windows
        # Of the full number on a CPU, too: its workers start afresh at every epoch, which must not be short.
        data = synthetic(self.spec, self.options.examples or self.spec.train)
        on_gpu = self.device.type == "cuda"
        cases = []
        for name, run in ((USUAL_CE, without_teacher(self.run)), (USUAL_KD, self.run)):
            if name == USUAL_KD and run.teacher is None:
                continue
            plain = as_public_code(run)
            if plain != run:
                self.notes.append(
                    f"{name}: SGD with momentum 0.9 and weight decay 5e-4"
                    + (", the loss of CRD" if run.teacher is not None else "")
                    + f", in place of what recipe={run.recipe.name}, method={run.method.name} ask for"
                )
            before = allocated(self.device)
            student, teacher = build_network(run, self.spec), self.teacher_of(run)
            images, labels, _ = data["train"]
            loop = UsualLoop(plain, student, teacher, images, labels, self.device, workers=workers)
            own = (AS_IT_COMES,) if on_gpu else ("fp32",)
            for precision in dict.fromkeys((*own, *self.options.precisions)):
                work = usual_work(loop, precision)
                switch(precision, self.options)
                work(WARM_UP[self.device.type])
                case = PUBLIC[name] if precision == AS_IT_COMES else name
                memory = memory_since(self.device, before)
                cases.append(Case(case, precision, 1, work, settle, memory=memory))
        return cases

    def fleets(self, name: str, run: Run) -> list[Case]:
        """One case for each size of fleet. They share their runners: fleet 2 is the first two of fleet 4."""
        cases, runners, memory = [], list[Runner](), dict[str, float]()
        predicted = run_bytes(run, self.spec, "cuda") / 1e6 if self.device.type == "cuda" else 0.0
        for size in sorted(self.options.fleets):
            try:
                while len(runners) < size:
                    runner, more = self.runner(run)
                    runners.append(runner)
                    memory = {key: memory.get(key, 0.0) + value for key, value in more.items()}
            except torch.OutOfMemoryError:
                self.notes.append(f"{name}, {run.recipe.precision}: the device's memory holds {len(runners)} runs")
                break
            of_all = {**memory, "predicted_mb": size * predicted} if memory else {}
            fleet = runners[:size]
            cases.append(Case(name, run.recipe.precision, size, side_by_side(fleet), 1, fleet, of_all))
        return cases

    def runner(self, run: Run) -> tuple[Runner, dict[str, float]]:
        """A training, warmed up, and what memory that took on a GPU: its own, not what trainings share."""
        before = allocated(self.device)
        runner = Runner(run, self.spec, self.task, self.taught_by(run))
        self.stack.callback(runner.close)
        return runner, memory_since(self.device, before)

    def teacher_of(self, run: Run) -> nn.Module | None:
        """A copy for each, as every run of `lskd-run` loads its own."""
        return copy.deepcopy(self.teacher) if run.teacher is not None else None

    def taught_by(self, run: Run) -> Teacher | None:
        """It, as it teaches."""
        network, cache = self.teacher_of(run), self.cache if run.logits_by_view else None
        if network is None:
            return None
        return Teacher.of(run, network, self.task, self.parts["train"].images, cache)

    def evaluation(self, precision: str) -> Callable[[int], int]:
        """Each step: the teacher looks at views that are not in its cache yet, as it does ahead of an epoch."""
        source, cache, teacher = self.task.train, self.cache, self.taught_by(at_precision(self.run, precision))
        assert cache is not None and teacher is not None and source.views is not None
        count = min(4 * teacher.batch, len(source))
        views = torch.zeros(count, dtype=torch.int64, device=self.device)
        rows = torch.arange(count, device=self.device) * source.views

        def work(steps: int) -> int:
            for _ in range(steps):
                cache.known[rows] = False
                teacher.epoch(views)
            return steps * count

        work(1)
        return work

    def teacher_on_device(self) -> nn.Module:
        network = copy.deepcopy(self.teacher)
        assert network is not None
        return placed(network, self.device).requires_grad_(False).eval()

    # ---- phases ---------------------------------------------------------------------------------------------------

    def phases(self) -> dict[str, float]:
        """Milliseconds of each phase of a step in fp32, timed apart (on CUDA captured, as they are within a step)."""
        switch("fp32", self.options)
        runner, _ = self.runner(without_teacher(self.run))

        def measured() -> dict[str, float]:
            times = {"whole step (CE)": self.milliseconds(lambda size: runner.training.step())}
            for name, act in self.phases_of(runner.training).items():
                step = ignoring_size(act)
                if self.device.type == "cuda":
                    step = Captured(step, runner.training.member.generator)
                times[name] = self.milliseconds(step)
            return times

        return runner.do(measured)

    def kernels(self, precision: str) -> dict[str, dict[str, float]]:
        """The kernels of a step (CE) on a GPU, by name: milliseconds, and how often they run; the longest first."""
        switch(precision, self.options)
        runner, _ = self.runner(without_teacher(at_precision(self.run, precision)))
        work = side_by_side([runner])
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            timed(self.device, lambda: work(KERNEL_STEPS))
        found = {
            event.key: {"ms": event.self_device_time_total / 1e3 / KERNEL_STEPS, "count": event.count / KERNEL_STEPS}
            for event in seen.key_averages()
            if event.self_device_time_total > 0
        }
        return dict(sorted(found.items(), key=lambda item: -item[1]["ms"]))

    def phases_of(self, training: Training) -> dict[str, Callable[[], Any]]:
        task, network, optimizer = self.task, training.member.network, training.member.optimizer
        indices = torch.arange(training.run.recipe.batch_size, device=self.device) % len(task)
        views, labels = torch.zeros_like(indices), task.labels[indices]
        targets = smooth_labels(labels, self.spec.num_classes, 0.0)

        def augmented() -> Tensor:
            (pixels,) = task.presenter.arguments(task.train.take(indices, views))
            return pixels

        def forward_backward() -> None:
            for parameter in network.parameters():
                parameter.grad = None
            terms = training.run.method.settings.loss(Batch(network(x), labels, targets))
            torch.stack([term.mean() for term in terms.values()]).sum().backward()

        x = augmented()
        forward_backward()
        ready = Ready([(p, p.grad.clone()) for p in network.parameters() if p.grad is not None])
        phases: dict[str, Callable[[], Any]] = {"augmentation and normalisation": augmented}
        if self.teacher is not None:
            teacher = self.teacher_on_device()
            phases["teacher's forward"] = torch.no_grad()(lambda: teacher(x))
        phases["forward"] = lambda: network(x)
        phases["forward and backward"] = forward_backward
        # The last: the same gradient again and again leads nowhere.
        phases["optimizer"] = lambda: optimizer.step(cast(Tensor, ready), 1.0)
        return phases

    def milliseconds(self, step: Callable[[int], None]) -> float:
        def work(steps: int) -> None:
            for _ in range(steps):
                step(0)

        work(WARM_UP["cuda"] if self.device.type == "cuda" else 1)
        steps = calibrated(self.device, work, self.options.seconds / 4, STEPS // 8)
        return 1e3 * min(timed(self.device, lambda: work(steps))[1] for _ in range(2)) / steps


class Runner:
    """One training, as `engine.train` runs it: in a thread of its own, on CUDA on a stream of its own. The thread stays
    as long as the training: cuDNN finds its algorithms for each thread."""

    def __init__(
        self,
        run: Run,
        spec: Spec,
        task: Task,
        teacher: Teacher | None = None,
    ) -> None:
        device = task.device
        self.lane = ThreadPoolExecutor(1, thread_name_prefix="run")
        self.stream = new_stream(device)
        self.training = self.do(lambda: Training(run, spec, task, teacher))
        self.do(self.warm_up)
        if self.stream is not None:  # which takes memory, too
            self.do(self.evaluate)

    def close(self) -> None:
        self.do(self.training.close)
        self.lane.shutdown()

    def do(self, act: Callable[[], T]) -> T:
        """`act()` in this training's thread, on its stream."""

        def there() -> T:
            with on_stream(self.stream):
                return act()

        return self.lane.submit(there).result()

    def warm_up(self) -> None:
        """Steps of each size that there will be: on CUDA until each has been captured, so that none is in a window."""
        training = self.training
        self.steps(WARM_UP[training.device.type])
        if training.examples % training.run.recipe.batch_size:
            for _ in range(EAGER + 1):  # the one after them is captured
                training.go_to(training.steps_per_epoch - 1)  # the last batch of an epoch is smaller
                self.steps(1)

    def evaluate(self) -> None:
        member, source = self.training.member, self.training.task.train
        member.evaluate([source.plain(torch.zeros(source.at_once, dtype=torch.int64, device=source.device))])
        member.train_mode()

    @property
    def captured(self) -> bool | None:
        """Whether steps of all sizes are replayed; None where no step is (on a CPU)."""
        step = self.training.one_step.run_step
        if not isinstance(step, Captured):
            return None
        batch_size = self.training.run.recipe.batch_size
        sizes = {(batch_size,), (self.training.examples % batch_size or batch_size,)}
        return sizes <= step.graphs.keys() and not step.failed

    def steps(self, count: int) -> int:
        """Train on, into new epochs where one ends. The number of images seen."""
        training, images = self.training, 0
        for _ in range(count):
            place = training.step_number % training.steps_per_epoch
            if place == 0:
                if training.step_number:
                    training.end_epoch()
                training.begin_epoch()
            training.step()
            images += training.one_step.sizes[place]
        return images


def side_by_side(runners: Sequence[Runner]) -> Callable[[int], int]:
    """So many steps of each, every one in its own thread; CPU threads are shared out among them."""

    def work(steps: int) -> int:
        threads = torch.get_num_threads()
        share = max(1, threads // len(runners))

        def steps_of(runner: Runner) -> int:
            if runner.stream is None and torch.get_num_threads() != share:  # each thread has a number of its own
                torch.set_num_threads(share)
            with on_stream(runner.stream):
                return runner.steps(steps)

        try:
            return sum([job.result() for job in [runner.lane.submit(steps_of, runner) for runner in runners]])
        finally:
            torch.set_num_threads(threads)

    return work


def usual_work(loop: UsualLoop, precision: str) -> Callable[[int], int]:
    """So many steps of the usual loop, where `switch` has set its precision; cuDNN tries its algorithms, as those codes
    have it do."""

    def work(steps: int) -> int:
        images, cudnn = 0, torch.backends.cudnn
        before = cudnn.allow_tf32, cudnn.benchmark
        cudnn.allow_tf32, cudnn.benchmark = before[0] or precision == AS_IT_COMES, True
        loop.autocast = precision == "bf16"
        try:
            for _ in range(steps):
                images += loop.step()
        finally:
            cudnn.allow_tf32, cudnn.benchmark = before
        return images

    return work


@dataclass(frozen=True)
class Ready:
    """Stands where the optimizer is given a loss; its gradients are at hand."""

    gradients: list[tuple[Tensor, Tensor]]  # (parameter, gradient)

    def backward(self) -> None:
        for parameter, gradient in self.gradients:
            parameter.grad = gradient


def ignoring_size(act: Callable[[], Any]) -> Callable[[int], None]:
    def step(size: int) -> None:
        act()

    return step


def allocated(device: torch.device) -> tuple[int, int]:
    """(bytes of tensors, bytes taken from the device) now, from where the peak is counted anew; on CUDA only."""
    if device.type != "cuda":
        return 0, 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)


def memory_since(device: torch.device, before: tuple[int, int]) -> dict[str, float]:
    """Peak of the bytes in tensors since `allocated` gave `before`, and of those taken from the device, in MB."""
    if device.type != "cuda":
        return {}
    return {
        "peak_mb": (torch.cuda.max_memory_allocated(device) - before[0]) / 1e6,
        "reserved_mb": (torch.cuda.max_memory_reserved(device) - before[1]) / 1e6,
    }
