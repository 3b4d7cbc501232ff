"""`lskd-report`: the tables, figures and verdicts of experiments, from the results that are here. Trains nothing."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lskd import report
from lskd.config_groups import Conf, no_such_file, shipped_conf
from lskd.errors import InputError
from lskd.plan import make_plan
from lskd.plugins import load_installed_plugins, load_plugins
from lskd.program import VERSION, fail, guarded, terminal_columns, user_path
from lskd.report import ahead
from lskd.run import Run
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables.experiment import load_experiment

_EPILOG = """\
examples:
  lskd-report                               all experiments of which there are results
  lskd-report muller_mnist                  one experiment
  lskd-report --results /data/runs --out .  results from elsewhere; files into ./tables and ./figures
  lskd-report muller_mnist --paper --bold   for a paper, too: LaTeX and PDF into results/paper/muller_mnist
  lskd-report --html                        all of it as a site for people: site/index.html, beside the tables
  lskd-report --html lskd.html              the same in one file, to mail
  lskd-report --runs dataset=mnist --group  the runs themselves, filtered, as means over seeds; --csv for a file
  lskd-report show 36e6e2                   everything about one run, by the first digits of its id
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 after an error that the user can mend, 1 where it is a damaged record,
    which is left out."""
    return guarded("lskd-report", lambda: _run(_parser().parse_intermixed_args(argv)))


def _run(args: argparse.Namespace) -> int:
    # All that may have been mistyped is found before anything is written.
    if args.html and not args.html.endswith(".html"):  # `--html quickstart`: the experiment, as a site
        args.experiments, args.html = [args.html, *args.experiments], ""
    load_installed_plugins()
    load_plugins(args.plugin)
    if args.config_dir is not None and not args.config_dir.is_dir():
        raise InputError(f"--config-dir = {str(args.config_dir)!r}: is not a directory")
    store = Snapshot.of(Store.at(args.results))
    if args.results and not store.root.is_dir():
        raise InputError(f"--results = {args.results!r}: is not a directory")
    if args.runs:
        if args.html is not None:
            raise InputError("--html: is not for --runs; every run has its page in the site")
        return _runs(args, store)
    for name in ("csv", "group", "by", "columns"):
        if getattr(args, name):
            raise InputError(f"--{name}: is for --runs")
    for name in ("paper", "bold"):
        if getattr(args, name) and args.html is not None:
            raise InputError(f"--{name}: is not for --html")
    if args.experiments[:1] == ["show"]:
        return _show(args, store)
    directories = _directories(args)
    conf = Conf(directories, specs=store.specs())
    names = conf.names("experiment")
    for name in args.experiments:
        if name not in names:
            raise no_such_file("experiment", name, directories, names)
    out = args.out if args.out is not None else store.root
    place = user_path(args.html) if args.html else out / "site"
    if args.html:
        _check_writable(place.parent, f"--html = {args.html!r}")
    else:
        _check_writable(out, f"--out = {str(out)!r}")

    code, reports = 0, []
    known: dict[str, Run] = {}  # experiments share runs
    for name in dict.fromkeys(args.experiments or names):
        try:
            experiment = load_experiment(conf.load("experiment", name), name)
            reports.append(report.render(make_plan(experiment, conf, known=known), store))
        except InputError as error:  # the others are written all the same
            code = _fail(error)
    # All is written before anything is printed: the reader of a pipe may stop.
    if args.html is not None:
        texts, failed = _site(args, reports, conf, store, place)
    else:
        texts, failed = _tables(args, reports, store, out)
    for reason in dict.fromkeys(reason for r in reports for reason in r.damaged):
        print(f"lskd-report: DAMAGED and left out: {reason}", file=sys.stderr)
        code = code or 1
    print("\n".join(texts))
    return failed or code


def _site(
    args: argparse.Namespace, reports: Sequence[report.Report], conf: Conf, store: Store, place: Path
) -> tuple[list[str], int]:
    """`lskd-report --html`: the text to print, and the exit code."""
    from lskd.report import site

    try:
        first, *others = site.write(reports, store, conf, place, whole=not args.experiments)
    except InputError as error:
        return [], _fail(error)
    return [f"wrote {first}" + (f" and {len(others)} files beside it" if others else "")], 0


def _tables(
    args: argparse.Namespace, reports: Sequence[report.Report], store: Store, out: Path
) -> tuple[list[str], int]:
    """The tables and figures: the text to print, and the exit code."""
    code, texts = 0, []
    # What is only quoted from a paper is written if it was asked for once.
    wanted = [
        result for result in reports
        if args.experiments or result.plan.runs or (out / "tables" / result.plan.experiment.name).is_dir()
    ]  # fmt: skip
    elsewhere = [result for result in wanted if result.plan.runs and not result.done]
    here = [result for result in wanted if result.done or not result.plan.runs]
    with ahead.drawn(report.drawings(here, out, paper=args.paper)) as drawn:
        for result in here:
            try:
                written = report.write(result, out, bold=args.bold, drawn=drawn)
                written += report.write_for_paper(result, out, bold=args.bold, drawn=drawn) if args.paper else []
                text = report.text(result, out, terminal_columns())
                texts.append("\n".join([text, *(f"wrote {path}" for path in written), ""]))
            except InputError as error:
                code = _fail(error)
    if not args.experiments and any(r.done for r in reports):  # the index is of all experiments
        try:
            written = report.write_index(sorted(reports, key=lambda r: r.plan.experiment.name), out)
            texts += [f"wrote {path}" for path in written]
        except InputError as error:
            code = _fail(error)
    return texts + (_not_here(elsewhere) if args.experiments else _in_no_table(reports, store, args.results)), code


def _show(args: argparse.Namespace, store: Snapshot) -> int:
    """`lskd-report show ID …`."""
    from lskd.report.show import show

    if not args.experiments[1:]:
        raise InputError("show: must be followed by the id of a run; lskd-report --runs lists them")
    conf = Conf(_directories(args), specs=store.specs())
    print("\n".join(show(id, store, conf) for id in args.experiments[1:]), end="")
    return 0


def _runs(args: argparse.Namespace, store: Snapshot) -> int:
    """`lskd-report --runs`: the runs that the filters choose, one a line, or in groups."""
    from lskd.report import runs

    frame, damaged = runs.frame(store)
    found = runs.chosen(frame, args.experiments) if len(frame) else frame
    wanted = [runs.column_of(name, found) for name in args.columns.split(",")] if args.columns else []
    metrics = wanted or [name for name in runs.METRICS if name in found and found[name].notna().any()]
    if not len(found):
        table = found
    elif args.group or args.by:
        same = runs.seeds(found)
        keys = args.by.split(",") if args.by else [name for name in runs.varying(found) if name not in same]
        table = runs.grouped(found, [runs.column_of(key, found) for key in keys], metrics)
    elif args.csv:
        table = found[["id", *wanted]] if wanted else found
    else:
        told = [name for name in ("state", "other_code") if found[name].nunique() > 1]
        table = found[list(dict.fromkeys(["id", *told, *runs.varying(found), *metrics]))]
    if args.csv:
        print(runs.as_csv(table), end="")
    elif len(found):
        print(runs.as_text(table), end="\n\n")
    if not args.csv:
        of = f" of {len(frame)}" if len(found) < len(frame) else ""
        print(f"{len(found)}{of} runs in {store.root}. What is the same for all is left out; --csv has every column.")
    for reason in damaged:
        print(f"lskd-report: DAMAGED and left out: {reason}", file=sys.stderr)
    return 1 if damaged else 0


def _directories(args: argparse.Namespace) -> tuple[Path, ...]:
    return (*([args.config_dir] if args.config_dir is not None else []), shipped_conf())


def _check_writable(out: Path, given: str) -> None:
    """`InputError` unless files can be written below `out`, which the user has `given`."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "is not a directory" if not there.is_dir() else "no permission"
        raise InputError(f"{given}: cannot be written: {there}: {reason}")


def _not_here(reports: Sequence[report.Report]) -> list[str]:
    """Lines about experiments that were asked for and have no finished run."""
    named = {r.plan.experiment.name: len(r.plan.runs) for r in reports}
    return [f"{name}: none of its {count} runs is here; lskd-run experiment={name}" for name, count in named.items()]


def _in_no_table(reports: Sequence[report.Report], store: Store, results: str) -> list[str]:
    """What to do about finished runs that are in no table, such as those of one's own sweep. `results`: as given."""
    ids = set(store.ids())
    if not ids:
        return [f"no finished run is in {store.root}; lskd-run experiment=quickstart trains some in a minute"]
    if left := len(ids.difference(run.id for r in reports for run in r.plan.runs)):
        where = f" --results {shlex.quote(results)}" if results else ""
        runs = "1 finished run is" if left == 1 else f"{left} finished runs are"
        return [f"{runs} in no experiment's table; all runs as one: lskd-report --runs{where}"]
    return []


def _fail(error: InputError) -> int:
    return fail("lskd-report", str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lskd-report",
        description="Tables, figures and the verdict on each claim, from finished runs. Trains nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = "default: all (conf/experiment/NAME.yaml). With --runs: filters, as in method.name=kd temperature=4,8 seed<3"
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=what)
    parser.add_argument("--runs", action="store_true", help="the runs that are here, one a line, instead of tables")
    parser.add_argument("--csv", action="store_true", help="of --runs every setting and metric, as CSV")
    parser.add_argument(
        "--group", action="store_true", help="of --runs the means over those that differ in seeds alone"
    )
    parser.add_argument(
        "--by", default="", metavar="KEY,KEY", help="of --runs the means over those that agree in these"
    )
    parser.add_argument("--columns", default="", metavar="KEY,KEY", help="of --runs, instead of the usual metrics")
    parser.add_argument("--results", default="", metavar="DIR", help="default: $LSKD_RESULTS, else ./results")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="where tables/ and figures/ go (default: the results)"
    )
    parser.add_argument(
        "--html",
        nargs="?",
        const="",
        metavar="FILE.html",
        help="instead of tables a site for people, in DIR/site; or all of it in FILE.html",
    )
    parser.add_argument(
        "--paper", action="store_true", help="write paper/, too: LaTeX and PDF files, images without titles and notes"
    )
    parser.add_argument("--bold", action="store_true", help="the best mean of each column of a LaTeX table in bold")
    parser.add_argument("--config-dir", type=user_path, metavar="DIR", help="experiments and tables of your own")
    of_plugin = "a Python file or module of parts of your own, as for lskd-run; may be given several times"
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help=of_plugin)
    parser.add_argument("--version", action="version", version=VERSION)
    return parser


if __name__ == "__main__":
    sys.exit(main())
