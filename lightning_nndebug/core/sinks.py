"""Sinks: where findings and vitals go."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.text import Text

from .findings import Finding, Severity
from .measurements import Measurement
from .record import Record
from .run_card import run_card
from .trainer import step_axis

log = logging.getLogger("lightning_nndebug")

# A rule that fires at more places than this is one story: the record has all of it.
_PLACES_SHOWN = 3
_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_NOTEBOOK = 100  # columns
_INDENT = 12  # columns before the text of "measured", "means", "likely", "try", "more"
_LEAST = 40  # columns for a text, however narrow the terminal is


class Sink:
    """Somewhere to put what the session knows, on rank 0 alone. Each has some of these methods."""

    def finding(self, finding: Finding) -> None:
        """Takes a finding, once per place."""

    def vitals(self, step: int, vitals: dict[str, float]) -> None:
        """Takes the numbers known after a step; the sink decides how often it wants them."""

    def measured(self, step: int, value: Measurement) -> None:
        """Takes a measurement that has something for the record."""

    def close(self, findings: list[Finding], step: int, exception: BaseException | None) -> None:
        """Takes all findings of the run, at its end, however it ended."""


def open_sinks(
    trainer: Any, directory: Path | None, known: list[Finding], vitals: Mapping[str, str]
) -> list[Sink]:
    """Opens the sinks of a run.

    Args:
        trainer: The Trainer.
        directory: Where the record goes; None for no record.
        known: Findings of the run that this one resumes; they are not said again.
        vitals: What each number is that may come, by its key.
    """
    if not trainer.is_global_zero:
        return []
    _add_handler()
    sinks: list[Sink] = [Console(known)]
    if trainer.loggers:
        sinks.append(Loggers(trainer, list(vitals)))
    if directory is not None:
        try:
            sinks.append(Sampled(Record(directory, run_card(trainer), vitals), trainer))
        except OSError as error:
            log.warning("nndebug keeps no record of this run: %s", error)
    return sinks


class Console(Sink):
    """Says each finding once, through the ``lightning_nndebug`` logger, and sums up at the end."""

    def __init__(self, known: list[Finding]) -> None:
        self._shown = Counter(one.code for one in known if one.level > Severity.INFO)

    def finding(self, finding: Finding) -> None:
        """Says a finding; advice (INFO) waits for the summary."""
        if finding.level == Severity.INFO:
            return
        self._shown[finding.code] += 1
        if self._shown[finding.code] > _PLACES_SHOWN:
            return
        level = logging.ERROR if finding.level == Severity.ERROR else logging.WARNING
        text = str(finding)
        if self._shown[finding.code] > 1:  # what it means and what to try is said above
            text = "\n".join(text.splitlines()[:2])
        log.log(level, "%s", text, extra={"finding": finding})

    def close(self, findings: list[Finding], step: int, exception: BaseException | None) -> None:
        """Sums up: what began first leads, and what follows from it comes after."""
        if not findings:
            log.info("nndebug: nothing found in %s steps.", f"{step:,}")
            return
        count = Counter(one.severity for one in findings)
        kinds = [
            _counted(count[str(one)], str(one)) for one in reversed(Severity) if count[str(one)]
        ]
        order = ", causes first" if len({one.code for one in findings}) > 1 else ""
        lines = [f"nndebug: {', '.join(kinds)} in {step:,} steps{order}"]
        places: dict[str, list[Finding]] = {}
        for one in findings:
            places.setdefault(one.code, []).append(one)
        for code, (first, *others) in places.items():
            more = f" and {_counted(len(others), 'more place')}" if others else ""
            place = f"step {first.step} · {first.where}{more}"
            if first.caused_by:
                place += f" · follows from {first.caused_by.partition(' ')[0]}"
            lines.append(f"  {first.severity:<7} {code} {first.name} · {place}")
            if first.level == Severity.INFO:
                lines.append(f"          {first.message}")
        log.info("%s", "\n".join(lines))


class Sampled(Sink):
    """Hands vitals on as often as the Trainer logs; everything else at once."""

    def __init__(self, sink: Sink | Record, trainer: Any) -> None:
        self._sink = sink
        self._every = trainer.log_every_n_steps
        self._last = -1

    def finding(self, finding: Finding) -> None:
        """Hands the finding on."""
        self._sink.finding(finding)

    def vitals(self, step: int, vitals: dict[str, float]) -> None:
        """Hands the numbers on, if it is time."""
        if self._every and step != self._last and step % self._every == 0:
            self._last = step
            self._sink.vitals(step, vitals)

    def measured(self, step: int, value: Measurement) -> None:
        """Hands the measurement on."""
        self._sink.measured(step, value)

    def close(self, findings: list[Finding], step: int, exception: BaseException | None) -> None:
        """Closes the sink."""
        self._sink.close(findings, step, exception)


class Loggers(Sink):
    """Every logger of the Trainer: vitals as scalars, findings as text where there is such a thing.

    ``pl_module.log`` would cost 0.3 ms per key and step even without a logger, so the loggers are
    spoken to directly. One that fails is told of once, and left alone.
    """

    def __init__(self, trainer: Any, vitals: Sequence[str] = ()) -> None:
        self._loggers = [Sampled(_Logger(one, vitals), trainer) for one in trainer.loggers]
        self._shown: Counter[str] = Counter()

    def finding(self, finding: Finding) -> None:
        """Logs the finding as text: of each rule only the first few, as each may be a request."""
        self._shown[finding.code] += 1
        if self._shown[finding.code] <= _PLACES_SHOWN:
            self._each("finding", finding)

    def vitals(self, step: int, vitals: dict[str, float]) -> None:
        """Logs the numbers, at the Trainer's own cadence."""
        self._each("vitals", step, vitals)

    def _each(self, method: str, *args: Any) -> None:
        for one in list(self._loggers):
            try:
                getattr(one, method)(*args)
            except Exception as error:
                self._loggers.remove(one)
                log.warning("nndebug no longer writes to a logger that failed: %r", error)


def log_figures(trainer: Any, draw: Callable[[], Mapping[str, Any]]) -> None:
    """Hands figures to those loggers of a Trainer that take some; one that fails is told of.

    Args:
        trainer: The Trainer.
        draw: Returns pictures by title, as arrays; not called if there is no such logger.
    """
    loggers = [one for one in map(_Logger, trainer.loggers) if one.draws]
    pictures = draw() if loggers else {}
    for one in loggers:
        try:
            for title, pixels in pictures.items():
                one.figure(title, pixels, step_axis(trainer))
        except Exception as error:
            log.warning("nndebug could not log its figures: %r", error)


class _Logger(Sink):
    def __init__(self, logger: Any, vitals: Sequence[str] = ()) -> None:
        self._logger = logger
        # By name, so that subclasses and both Lightning namespaces are known alike.
        self._kinds = {one.__name__ for one in type(logger).__mro__}
        # A key that comes later would have CSVLogger write its whole file anew.
        self._blank = dict.fromkeys(vitals, "") if "CSVLogger" in self._kinds else {}
        self._table: list[list[Any]] = []

    def finding(self, finding: Finding) -> None:
        key = f"nndebug/findings/{finding.code}"
        text = str(finding)
        self._table.append([finding.step, finding.severity, finding.code, finding.where, text])
        if "TensorBoardLogger" in self._kinds:
            self._logger.experiment.add_text(key, f"```\n{text}\n```", finding.step)
        elif "WandbLogger" in self._kinds:  # which shows the last table of a key and no other
            columns = ["step", "severity", "code", "where", "finding"]
            self._logger.log_text("nndebug/findings", columns=columns, data=self._table)
        elif "MLFlowLogger" in self._kinds:
            path = f"{key}/{len(self._table)}_step_{finding.step}.txt"
            self._logger.experiment.log_text(self._logger.run_id, text, path)
        elif "CometLogger" in self._kinds:
            metadata = {"code": finding.code, "severity": finding.severity}
            self._logger.experiment.log_text(text, step=finding.step, metadata=metadata)

    @property
    def draws(self) -> bool:
        return not self._kinds.isdisjoint(
            ("TensorBoardLogger", "WandbLogger", "MLFlowLogger", "CometLogger")
        )

    def figure(self, title: str, pixels: Any, step: int) -> None:
        key = f"nndebug/{title}"
        if "TensorBoardLogger" in self._kinds:
            self._logger.experiment.add_image(key, pixels, step, dataformats="HWC")
        elif "WandbLogger" in self._kinds:
            self._logger.log_image(key, [pixels], step)
        elif "MLFlowLogger" in self._kinds:
            self._logger.experiment.log_image(self._logger.run_id, pixels, f"{key}.png")
        elif "CometLogger" in self._kinds:
            self._logger.experiment.log_image(pixels, name=key, step=step)

    def vitals(self, step: int, vitals: dict[str, float]) -> None:
        self._logger.log_metrics({**self._blank, **vitals}, step=step)


class _Handler(logging.Handler):
    """Prints findings in colour, above a progress bar rather than through it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self._render(record)
            # tqdm clears its bars, prints and draws them again; without bars it just prints. Rich
            # stands in for sys.stderr while its bars are up, so ask for it anew each time.
            if "tqdm" in sys.modules:
                sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
            else:
                sys.stderr.write(text + "\n")
        except Exception:
            self.handleError(record)

    def _render(self, record: logging.LogRecord) -> str:
        out = StringIO()
        notebook = type(sys.stderr).__module__.startswith("ipykernel")
        colour = notebook or bool(getattr(sys.stderr, "isatty", lambda: False)())
        width = _NOTEBOOK if notebook else None if colour else 10_000
        # In a notebook, rich would show each line by itself instead of handing it to us.
        console = RichConsole(file=out, force_terminal=colour, force_jupyter=False, width=width)
        for line in painted(self.format(record), console):
            console.print(line, soft_wrap=True)
        return out.getvalue().rstrip("\n")


def painted(message: str, console: RichConsole) -> Iterator[Text]:
    """Yields the lines of a message as a console shows them: in colour, none wider than it is.

    Args:
        message: Findings, or their summary.
        console: Where they are to be shown.
    """
    text = Text(message)
    for severity, style in _STYLES.items():
        text.highlight_regex(rf"(?m)^ *{severity} +[A-Z]{{3}}\d+ \S+", style)
    text.highlight_regex(r"(?m)^  (measured|means|because|likely|try|more) ", "dim")
    for line in text.split("\n"):
        # What does not fit goes on under the text of its key.
        indent = _INDENT if line.plain.startswith("  ") else 0
        key, rest = line[:indent], line[indent:]
        for part in rest.wrap(console, max(console.width - indent, _LEAST)):
            part.rstrip()
            yield key + part
            key = Text(" " * indent)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + ("s" if number > 1 and word != "info" else "")


def _add_handler() -> None:
    """Makes findings visible where nobody has configured logging; otherwise they go that way."""
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    if not log.hasHandlers():
        log.addHandler(_Handler())
