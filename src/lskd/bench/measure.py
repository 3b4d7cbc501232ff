"""Images a second of the ways to train one pair of networks, on images of noise: speed does not depend on content."""

from __future__ import annotations

import contextlib
import copy
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from lskd.bench.floor import LAYOUTS, Floor, Machine, Work, timed, work_of
from lskd.bench.reference import UsualLoop
from lskd.data import Part, Spec
from lskd.data.augment import Normalize
from lskd.engine import Shared, device_bytes, run_bytes
from lskd.engine import teacher as of_teacher
from lskd.engine.capture import WARM_UP as EAGER
from lskd.engine.capture import Captured, new_stream, on_stream
from lskd.engine.member import build_network
from lskd.engine.shared import Images, LogitCache
from lskd.engine.teacher import Teacher, placed
from lskd.engine.training import Training, set_precision
from lskd.environment import available_cores
from lskd.methods import METHODS, Batch, Method
from lskd.methods.kd import KD
from lskd.recipe import Schedule, WeightDecay
from lskd.run import Named, Run, Smoothing
from lskd.targets import smooth_labels

CPU_EXAMPLES = 2048  # on a CPU, an epoch of a whole data set would outlast every window
WARM_UP = {"cpu": 5, "cuda": 8}  # steps; on CUDA the step is captured in them
OPERATOR_STEPS, KERNEL_STEPS = 10, 20  # whose operators, and whose kernels on a GPU, are timed
STEPS = 400_000  # of each training at most, all windows together

USUAL_CE, USUAL_KD = "usual CE", "usual KD"
PUBLIC_CE, PUBLIC_KD = "usual CE as public codes leave it", "usual KD as public codes leave it"
CE, LIVE, FILLING, CACHED = "CE", "KD, teacher every step", "KD, filling", "KD, cached"
TEACHER = "teacher"  # its evaluation ahead of an epoch: a part of FILLING
USUAL = {
    USUAL_CE: USUAL_CE, PUBLIC_CE: USUAL_CE, CE: USUAL_CE,
    USUAL_KD: USUAL_KD, PUBLIC_KD: USUAL_KD, LIVE: USUAL_KD, FILLING: USUAL_KD, CACHED: USUAL_KD,
}  # fmt: skip
PUBLIC = {USUAL_CE: PUBLIC_CE, USUAL_KD: PUBLIC_KD}
# The precision of public codes: that of torch as it comes, which is TF32 for the convolutions of a GPU, and fp32 for
# products. On a CPU it is fp32, and the case is the usual one.
AS_IT_COMES = "fp32, convolutions tf32"
# Whose work a step does.
FLOOR = {
    USUAL_CE: CE, PUBLIC_CE: CE, CE: CE, USUAL_KD: LIVE, PUBLIC_KD: LIVE, LIVE: LIVE, FILLING: LIVE, CACHED: CACHED,
}  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How to measure: `repeats` windows of `seconds` for each case, one after the other in turns."""

    seconds: float
    repeats: int
    precisions: tuple[str, ...]
    fleets: tuple[int, ...]
    usual: bool = True
    examples: int | None = None  # None: those of the data set, `CPU_EXAMPLES` on a CPU
    search: bool | None = (
        None  # whether cuDNN tries its algorithms for each shape; None: if runs are alone, as lskd-run
    )
    layout: str = "channels_last"  # or "contiguous"


@dataclass
class Case:
    """One way to train, and what the clock said: images/s of each window, of all runs of a fleet together."""

    name: str
    precision: str
    fleet: int
    work: Callable[[int], int]  # this many steps of each run -> the images they took
    settle: int  # steps before each window
    runners: Sequence[Runner] = ()
    memory: dict[str, float] = field(default_factory=dict)
    steps: int = 0  # of a window
    rates: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}" + (f", fleet of {self.fleet}" if self.fleet > 1 else "")

    @property
    def captured(self) -> bool | None:
        """Whether all steps are replayed; None where nothing is (on a CPU, in the usual loop)."""
        each = [runner.captured for runner in self.runners]
        return None if None in each or not each else all(each)


def measure(
    run: Run,
    spec: Spec,
    device: torch.device,
    options: Options,
    machine: Machine,
    say: Callable[[str], None] = lambda line: None,
    on_turn: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """The record of a pair: `run` is the student's, with its teacher; without one only CE is measured. `on_turn` gets
    what there is of it after every turn."""
    # The learning rate changes nothing here, and its factors for every step of a long training take time.
    run = at_precision(replace(run, recipe=replace(run.recipe, schedule=Schedule(), epochs=None, steps=STEPS)), "fp32")
    works = count_works(run, spec, options)
    with laid_out(options.layout), Pair(run, spec, device, options) as pair:
        cases = pair.cases(say)
        record: dict[str, Any] = {
            "student": run.network,
            "teacher": run.teacher.network if run.teacher is not None else None,
            "dataset": run.dataset.name,
            "recipe": run.recipe.name,
            "batch_size": run.recipe.batch_size,
            "examples": spec.train,
            "examples_measured_on": len(pair.images.labels),
            "notes": pair.notes,
        }
        for number in range(options.repeats):
            machine.again()
            for case in cases:
                case.rates.append(window(case, device, options))
                say(f"{case}: {case.rates[-1]:,.0f} images/s ({number + 1} of {options.repeats})")
            record["turns"] = number + 1
            record["floor"] = describe_floors(works, machine)
            record["teacher_images_per_second"] = {
                case.precision: spread(case.rates) for case in cases if case.name == TEACHER
            }
            floors = functools.partial(floor_of, works, machine)
            record["cases"] = records(with_filling(cases), run.recipe.batch_size, spec.train, floors)
            on_turn(record)
        record["phases_ms"] = pair.phases()
        if device.type == "cuda":
            record["kernels"] = {precision: pair.kernels(precision) for precision in options.precisions}
    if device.type == "cpu":
        its = [without_teacher(at_precision(run, precision)) for precision in options.precisions]
        record["operators"] = {one.recipe.precision: time_operators(one, spec, machine) for one in its}
    on_turn(record)
    return record


# ---- the clock ----------------------------------------------------------------------------------------------------


def window(case: Case, device: torch.device, options: Options) -> float:
    """Images/s of one window of `case`."""
    switch(case.precision, options)
    case.work(case.settle)
    images, seconds = timed(device, lambda: case.work(case.steps))
    return images / seconds


def switch(precision: str, options: Options) -> None:
    """The numerics of `precision`, and how cuDNN finds its algorithms. (The usual loop sets its own.)"""
    search = max(options.fleets) == 1 if options.search is None else options.search
    set_precision("fp32" if precision == AS_IT_COMES else precision, search=search)


@contextlib.contextmanager
def laid_out(layout: str) -> Iterator[None]:
    """Images and weights in another `layout` than the engine's own."""
    own = of_teacher.LAYOUT
    of_teacher.LAYOUT = LAYOUTS[layout]
    try:
        yield
    finally:
        of_teacher.LAYOUT = own


def calibrated(device: torch.device, work: Callable[[int], Any], seconds: float, most: int) -> int:
    """How many steps take about `seconds`: at least 2. A clock is read at both ends of a window only, so that it
    never holds up what is timed; hence the number must be known before."""
    steps = 1
    while True:
        _, taken = timed(device, functools.partial(work, steps))
        if taken > seconds / 10 or 2 * steps > most:
            return max(2, min(most, round(steps * seconds / taken)))
        steps *= 2


# ---- the ways to train --------------------------------------------------------------------------------------------


class Pair:
    """A student and its teacher on a device, with all that the ways to train them share."""

    def __init__(self, run: Run, spec: Spec, device: torch.device, options: Options) -> None:
        self.run, self.spec, self.device, self.options = run, spec, device, options
        self.notes: list[str] = []
        self.stack = contextlib.ExitStack()
        examples = options.examples or (CPU_EXAMPLES if device.type == "cpu" else spec.train)
        self.parts = synthetic(spec, examples)
        shared = Shared(device, teacher_memory=device_bytes(device)[0] / 2)
        self.images: Images = shared.images(run, self.parts)
        self.cache: LogitCache | None = None
        self.teacher: nn.Module | None = None
        if run.teacher is not None:
            self.teacher = build_network(run.teacher, spec)
            self.cache = self.stack.enter_context(shared.logit_cache(run, self.images.train, spec.num_classes))
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
            loop = UsualLoop(plain, student, teacher, *data["train"], self.device, workers=workers)
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
        runner = Runner(run, self.spec, self.images, self.taught_by(run))
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
        return Teacher.of(run, network, self.images, self.parts["train"].images, cache)

    def evaluation(self, precision: str) -> Callable[[int], int]:
        """Each step: the teacher looks at views that are not in its cache yet, as it does ahead of an epoch."""
        source, cache, teacher = self.images.train, self.cache, self.taught_by(at_precision(self.run, precision))
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
        images, network, optimizer = self.images, training.member.network, training.member.optimizer
        indices = torch.arange(training.run.recipe.batch_size, device=self.device) % len(images.labels)
        views, labels = torch.zeros_like(indices), images.labels[indices]
        targets = smooth_labels(labels, self.spec.num_classes, 0.0)

        def augmented() -> Tensor:
            pixels = images.normalizer(images.train.take(indices, views))
            return pixels.contiguous(memory_format=of_teacher.LAYOUT)

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
        images: Images,
        teacher: Teacher | None = None,
    ) -> None:
        device = images.labels.device
        self.lane = ThreadPoolExecutor(1, thread_name_prefix="run")
        self.stream = new_stream(device)
        self.training = self.do(lambda: Training(run, spec, images, teacher))
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
        member, source = self.training.member, self.training.images.train
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
            batch_size = training.run.recipe.batch_size
            images += min(batch_size, training.examples - place * batch_size)
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


# ---- runs and data ------------------------------------------------------------------------------------------------


def synthetic(spec: Spec, examples: int) -> dict[str, Part]:
    """Noise of the data set's shape and classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (examples, *spec.shape), generator=generator, dtype=torch.uint8)
    return {"train": Part(images, torch.randint(spec.num_classes, (examples,), generator=generator))}


def at_precision(run: Run, precision: str) -> Run:
    return replace(run, recipe=replace(run.recipe, precision=precision))  # type: ignore[arg-type]


def without_teacher(run: Run) -> Run:
    return replace(run, method=Named("ce", METHODS["ce"]), teacher=None)


def as_public_code(run: Run) -> Run:
    """`run` with the optimizer, loss and normalisation of RepDistiller and mdistiller."""
    recipe = run.recipe
    recipe = replace(
        recipe, momentum=0.9, dampening=0.0, nesterov=False, lr_factors={}, clip_norm=None, loss_scale=1.0,
        weight_decay=WeightDecay(5e-4),
        normalize=Normalize("dataset") if recipe.normalize.kind == "per_image" else recipe.normalize,
    )  # fmt: skip
    method = Named[Method]("ce", METHODS["ce"]) if run.teacher is None else Named[Method]("kd", KD())
    return replace(run, method=method, recipe=recipe, smoothing=Smoothing())


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


# ---- floors -------------------------------------------------------------------------------------------------------


def warm_step(run: Run, spec: Spec) -> Callable[[], None]:
    """A step of `run` on the CPU, not the first one; of an eval-mode teacher the logits are at hand."""
    size = run.recipe.batch_size
    run = replace(run, recipe=replace(run.recipe, epochs=None, steps=STEPS))
    parts, teacher = synthetic(spec, size), None
    images = Shared(torch.device("cpu")).images(run, parts)
    if run.teacher is not None:
        teacher = Teacher.of(run, build_network(run.teacher, spec), images, parts["train"].images)
        teacher.hold(torch.zeros(size, spec.num_classes))
    training = Training(run, spec, images, teacher)
    training.member.train_mode()
    training.step()  # what comes into being at the first is not counted
    return training.step


def count_work(run: Run, spec: Spec) -> Work:
    """The work of a step of `run`."""
    return work_of(warm_step(run, spec))


def time_operators(run: Run, spec: Spec, machine: Machine) -> dict[str, dict[str, float]]:
    """What a step of `run` takes on the CPU, by what its operators are for: milliseconds, and those of the floor. Of
    each call the fastest of some steps counts, as of the kernels that the floor stands on."""
    set_precision(run.recipe.precision)
    step = warm_step(run, spec)
    steps = [work_of(step).calls for _ in range(OPERATOR_STEPS)]
    best = Work(tuple(min(calls, key=lambda call: call.seconds) for calls in zip(*steps, strict=True)))
    return {
        purpose: {"ms": 1e3 * took, "floor_ms": 1e3 * least}
        for purpose, (took, least) in machine.by_purpose(best, run.recipe.precision).items()
    }


Works = Mapping[tuple[str, str], Work]


def count_works(run: Run, spec: Spec, options: Options) -> Works:
    """The work of a step by precision and kind of step."""
    works: dict[tuple[str, str], Work] = {}
    for precision in dict.fromkeys(["fp32", *options.precisions]):
        its = at_precision(run, precision)
        kinds = {CE: without_teacher(its)}
        if run.teacher is not None:
            kinds |= {CACHED: its, LIVE: replace(its, teacher_mode="batch_stats")}
        works |= {(precision, kind): count_work(one, spec) for kind, one in kinds.items()}
    return works


def floor_of(works: Works, machine: Machine, name: str, precision: str, fleet: int) -> Floor:
    """The floor of a step of the case `name`. Public codes' is that of tf32, which convolutions are."""
    work = works["fp32" if precision == AS_IT_COMES else precision, FLOOR[name]]
    return machine.floor(work, "tf32" if precision == AS_IT_COMES else precision, fleet)


def describe_floors(works: Works, machine: Machine) -> dict[str, dict[str, Any]]:
    """By precision and kind of step: bytes, operations, and the milliseconds below which `machine` cannot take it."""
    floors: dict[str, dict[str, Any]] = {}
    for (precision, kind), work in works.items():
        floor = machine.floor(work, precision)
        floors.setdefault(precision, {})[kind] = {
            "bytes": work.bytes, "operations": work.operations, "ms": 1e3 * floor.seconds, "bound_by": floor.bound_by,
            "ms_of_bytes": 1e3 * floor.bytes, "ms_of_operations": 1e3 * floor.operations,
            "ms_in_turn": 1e3 * floor.in_turn, "kernel": machine.fastest(precision).kernel.name,
        }  # fmt: skip
    return floors


# ---- records ------------------------------------------------------------------------------------------------------


def with_filling(cases: Sequence[Case]) -> list[Case]:
    """`cases` with FILLING in place of TEACHER: each image is first looked at by the teacher, then trained on."""
    cached = {case.precision: case for case in cases if case.name == CACHED and case.fleet == 1}
    result = []
    for case in cases:
        if case.name == TEACHER:
            both = zip(case.rates, cached[case.precision].rates, strict=True)
            rates = [1 / (1 / teacher + 1 / student) for teacher, student in both]
            case = replace(case, name=FILLING, rates=rates, steps=cached[case.precision].steps)
        result.append(case)
    return result


def records(
    cases: Sequence[Case], batch_size: int, examples: int, floors: Callable[[str, str, int], Floor]
) -> list[dict[str, Any]]:
    """What is printed and written of each case. Ratios are taken within a turn, in which the machine was the same, and
    between cases of one precision; but for `times_public`, whose base is the usual loop as public codes leave it.

    images/s are of all runs of a fleet together, and so are the times: those of a step and an epoch of one run, in a
    fleet of n the n-th part of what n of them take. `floors` gives the floor of a case's step, by its name, precision
    and fleet.
    """
    of = {(case.name, case.precision, case.fleet): case.rates for case in cases}

    def ratio(rates: Sequence[float], base: Sequence[float] | None) -> dict[str, float] | None:
        return spread([rate / other for rate, other in zip(rates, base, strict=True)]) if base else None

    result = []
    for case in cases:
        rate = statistics.median(case.rates)
        time_of_ce = of.get((CE, case.precision, case.fleet))
        milliseconds = 1e3 * batch_size / rate
        floor, usual = floors(case.name, case.precision, case.fleet), USUAL[case.name]
        public = of.get((PUBLIC[usual], AS_IT_COMES, 1), of.get((usual, "fp32", 1)))
        result.append(
            {
                "case": case.name,
                "precision": case.precision,
                "fleet": case.fleet,
                "images_per_second": {**spread(case.rates), "each": list(case.rates)},
                "images_per_second_per_run": rate / case.fleet,
                "ms_per_step": milliseconds,
                "seconds_per_epoch": examples / rate,
                "times_usual": ratio(case.rates, of.get((usual, case.precision, 1))),
                "times_public": ratio(case.rates, public),
                "time_over_ce": ratio(time_of_ce, case.rates) if time_of_ce and case.name in (CACHED, LIVE) else None,
                "share_of_floor": 1e3 * floor.seconds / milliseconds,
                "share_of_floor_in_turn": 1e3 * floor.in_turn / milliseconds,
                "bound_by": floor.bound_by,
                "captured": case.captured,
                "steps_per_window": case.steps,
                "memory": case.memory or None,
            }
        )
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
