"""How a figure or table was made: read from the records themselves."""

from collections.abc import Iterable, Sequence

from lab.measurements import Record
from mipp.report.tables import short


def facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Command, commit, machine, versions, seeds and time, as (what, words)."""
    seeds = sorted({record.item.seed for record in records})
    finished = sorted(record.finished for record in records)
    hours = sum(record.result.seconds.total for record in records) / 3600
    named = ", ".join(map(str, seeds)) if len(seeds) <= 12 else f"{seeds[0]} to {seeds[-1]}"
    return [
        ("command", _all(record.command for record in records)),
        ("commit", _all(record.commit or "not recorded" for record in records)),
        ("machine", _all(_machine(record) for record in records)),
        ("versions", _all(_versions(record) for record in records)),
        ("calibration", _all(_calibration(record) for record in records)),
        ("retraining", _all(_retraining(record) for record in records)),
        ("seeds", f"{len(seeds)} ({named})"),
        ("measurements", f"{len(records)}, {hours:.2g} hours in all"),
        ("finished", finished[0] if len(finished) == 1 else f"{finished[0]} to {finished[-1]}"),
    ]


def _all(words: Iterable[str]) -> str:
    return "; ".join(word for word in dict.fromkeys(words) if word)


def _machine(record: Record) -> str:
    m = record.machine
    threads = f"{m.threads} thread{'s' * (m.threads != 1)}"
    return (
        f"{m.processor}, {m.cores} cores, {threads}, {m.memory / 2**30:.3g} GiB, device {m.device}"
    )


def _versions(record: Record) -> str:
    v = record.versions
    return f"mipp {v.mipp}, torch {v.torch}, Python {v.python}"


def _calibration(record: Record) -> str:
    calibration = record.item.calibration
    return "" if calibration is None else f"{short(calibration.samples, 4)} images"


def _retraining(record: Record) -> str:
    retraining = record.item.retraining
    if retraining is None:
        return ""
    rate = "the recipe's rate" if retraining.rate is None else f"rate {retraining.rate:g}"
    return f"{retraining.epochs} epoch{'s' * (retraining.epochs != 1)}, {rate}"
