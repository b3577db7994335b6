"""Every error a user can meet, in one tree.

    CollegiumError
    ├── ConfigError       a file or an option the user wrote is wrong
    ├── DataError         a record is wrong; names the file and the line
    ├── TrainingError     a loss is no number any more
    ├── BundleError       a released bundle, or a consent to it, is not as it was signed
    ├── ReleaseError      a model misses what the agreement asks of a release
    ├── BackboneError     weights are missing, unreadable or not the agreed ones
    ├── ProtocolError     a message does not follow the protocol
    │   ├── RefusalError  an institution declined a request, and says why
    │   ├── PolicyError   a request or an update breaks a rule of the site's own policy
    │   ├── HeldError     an update waited for the site's operator, who did not release it
    │   ├── BudgetError   the privacy budget forbids a request, or the ledger that keeps it cannot be trusted
    │   └── ReplyError    an institution's reply broke the rules; it is dropped for this round
    ├── QuorumError       too few institutions answered; the run stops, its state is kept
    ├── ConnectionFailedError a door could not be opened or reached
    ├── EnrolmentError    a key or certificate is missing, unknown or not accepted
    ├── ProcessError      a child process could not be started or kept running
    ├── MachineError      the machine refused: a permission, room on the disk, a missing folder
    └── StoreError        the database or a checkpoint could not be written or read

A message is one sentence that says what was expected, what came, where, and what to do.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class CollegiumError(Exception):
    """Base of all errors that Collegium raises on purpose; the command line prints it and exits with 1."""


class ConfigError(CollegiumError):
    """A file or an option that the user wrote is wrong."""


class DataError(CollegiumError):
    """A record is wrong; the message names the file and the line, and may quote the record.

    Args:
        message: For who reads it at a terminal.
        unquoted: As much of it as may stand in a log, without a full stop; see `loggable`.
    """

    def __init__(self, message: str, unquoted: str = "Records cannot be used") -> None:
        super().__init__(message)
        self.unquoted = unquoted


class TrainingError(CollegiumError):
    """A training loss is not finite; nothing is wrong with a record, but with how it is learned from."""


class BundleError(CollegiumError):
    """A released bundle, or an institution's consent to it, is not as it was signed."""


class ReleaseError(CollegiumError):
    """A trained model misses what the agreement asks of a release; the message says what was measured."""


class BackboneError(CollegiumError):
    """The backbone's weights are missing, unreadable or not the ones the federation agreed on."""


class ProtocolError(CollegiumError):
    """A message does not follow the protocol."""


class RefusalError(ProtocolError):
    """An institution declined a request, and says why."""


class PolicyError(ProtocolError):
    """A request, or what would leave in answer to it, breaks a rule of the site's own policy; the message names it."""


class HeldError(ProtocolError):
    """An update was held for the site's operator, and was rejected or not approved in time."""


class BudgetError(ProtocolError):
    """The privacy budget does not allow a request, or the ledger that keeps it cannot be read, written or trusted."""


class ReplyError(ProtocolError):
    """An institution's reply broke the rules; that institution is dropped for the round."""


class QuorumError(CollegiumError):
    """Too few institutions answered; the run stops and its last checkpoint is kept."""


class ConnectionFailedError(CollegiumError):
    """A door could not be opened or reached: port in use, wrong address, TLS refused."""


class EnrolmentError(CollegiumError):
    """A key or certificate is missing, unknown or not accepted."""


class ProcessError(CollegiumError):
    """A child process could not be started or kept running."""


class MachineError(CollegiumError):
    """The machine refused what was needed: a permission, room on the disk, a folder that is not there."""


class StoreError(CollegiumError):
    """The database or a checkpoint could not be written or read."""


class Reasons:
    """Errors that are gathered, so that all are shown at once, as of the first one's class or as DataError.

    Attributes:
        found: The errors so far, none twice.
    """

    def __init__(self) -> None:
        self.found: list[CollegiumError] = []

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Take an error of Collegium's that ends the block, and go on after it."""
        try:
            yield
        except CollegiumError as error:
            if str(error) not in map(str, self.found):
                self.found.append(error)

    def end(self) -> None:
        """Raise what was found: one error as it is, several as one."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise self._of_all()(joined(self.found, " "))

    def _of_all(self) -> type[CollegiumError]:
        """What quotes a record must say so, whatever else it tells of."""
        return DataError if any(isinstance(error, DataError) for error in self.found) else type(self.found[0])


MOST_LISTED = 20
"""Names that are listed in one sentence, whatever their number."""
LONGEST_LINE = 5000
"""Characters that are kept of an error as it is printed, of a line of a log, and of an event of a run."""
LONGEST_TEXT = 500
"""Characters that are kept of a sentence that came from outside."""


def shown(text: object, longest: int = 80) -> str:
    """A name that came from outside, as it may stand in a sentence: quoted, escaped and cut."""
    quoted = repr(str(text)[: longest + 1])
    return quoted if len(quoted) <= longest else f"{quoted[: longest - 4]}...{quoted[-1]}"


def listed(names: Iterable[object], most: int = MOST_LISTED) -> str:
    """Names in brackets, quoted as `repr` does, each cut; of many the first ones and a count."""
    return f"[{joined(map(_cut_repr, names), most=most)}]"


def joined(texts: Iterable[object], between: str = ", ", *, most: int = MOST_LISTED) -> str:
    """Texts one after the other; of many the first ones and a count."""
    every = list(map(str, texts))
    more = [f"and {len(every) - most} more"] if len(every) > most else []
    return between.join(every[:most] + more)


def plain(text: str, longest: int = LONGEST_TEXT) -> str:
    """One printable line of bounded length: words from outside must not steer a terminal or fill a log."""
    line = "".join(c if c.isprintable() else " " for c in text[: longest + 1])
    return line if len(line) <= longest else line[: longest - 3] + "..."


def loggable(error: Exception) -> str:
    """What a log may have of an error: no text of a record, which only a person at a terminal gets to see."""
    if isinstance(error, DataError):
        return plain(f"{error.unquoted}; `collegium client doctor` says why.", LONGEST_LINE)
    return plain(str(error), LONGEST_LINE) if isinstance(error, CollegiumError) else type(error).__name__


def printable(text: str) -> str:
    """Text whose lines stay, and in which nothing else steers a terminal."""
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text)


def _cut_repr(value: object, longest: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 4]}...{text[-1]}"
