"""`lskd-report`: the tables, figures and verdicts of experiments, from the results that are here. Trains nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lskd import report
from lskd.errors import InputError
from lskd.plan import load_experiment, make_plan
from lskd.plugins import load_installed_plugins, load_plugins
from lskd.settings import Conf, shipped_conf
from lskd.store import Store

_EPILOG = """\
examples:
  lskd-report                               all experiments of which there are results
  lskd-report muller_mnist                  one experiment
  lskd-report --results /data/runs --out .  results from elsewhere; files into ./tables and ./figures
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 after an error that the user can mend, 1 where it is a damaged record,
    which is left out."""
    args = _parser().parse_args(argv)

    try:
        load_installed_plugins()
        load_plugins(args.plugin)
        if args.config_dir is not None and not args.config_dir.is_dir():
            raise InputError(f"--config-dir = {str(args.config_dir)!r}: is not a directory")
        conf = Conf((args.config_dir, shipped_conf()) if args.config_dir is not None else (shipped_conf(),))
        store = Store.at(args.results)
        if args.results and not store.root.is_dir():
            raise InputError(f"--results = {args.results!r}: is not a directory")
        out = args.out if args.out is not None else store.root
    except InputError as error:
        return _fail(error)

    code, reports = 0, []
    chosen = args.experiments or conf.names("experiment")
    # What is only quoted from a paper goes with results, or is asked for by name.
    quote = bool(args.experiments) or next(store.results(), None) is not None
    # The index is of all experiments, whichever were asked for.
    for name in dict.fromkeys([*chosen, *conf.names("experiment")]):
        try:
            reports.append(_report(name, conf, store, out if name in chosen else None, quote=quote))
        except InputError as error:  # the others are printed all the same
            code = _fail(error)
    for reason in dict.fromkeys(reason for r in reports for reason in r.damaged):
        print(f"lskd-report: DAMAGED and left out: {reason}", file=sys.stderr)
        code = code or 1
    if any(r.done for r in reports):
        try:
            for path in report.write_index(sorted(reports, key=lambda r: r.plan.experiment.name), out):
                print(f"wrote {path}")
        except InputError as error:
            code = _fail(error)
    return code


def _report(name: str, conf: Conf, store: Store, out: Path | None, *, quote: bool) -> report.Report:
    """The report of one experiment; with `out`, it is printed and written there."""
    plan = make_plan(load_experiment(conf.load("experiment", name), name), conf)
    result = report.render(plan, store)
    if out is None or not (plan.runs or quote):
        return result
    if plan.runs and result.done == 0:
        print(f"{name}: none of its {len(plan.runs)} runs is here; lskd-run experiment={name}")
    else:
        print(report.text(plan, store, out))
        for path in report.write(plan, store, out):
            print(f"wrote {path}")
        print()
    return result


def _fail(error: InputError) -> int:
    print(f"lskd-report: {error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lskd-report",
        description="Tables, figures and the verdict on each claim, from finished runs. Trains nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all (conf/experiment/NAME.yaml)")
    parser.add_argument("--results", default="", metavar="DIR", help="default: $LSKD_RESULTS, else ./results")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where tables/ and figures/ go (default: the results)")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="experiments and tables of your own")
    of_plugin = "methods, networks or data sets of your own, as for lskd-run; may be given several times"
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help=of_plugin)
    return parser


if __name__ == "__main__":
    sys.exit(main())
