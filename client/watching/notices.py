"""What an institution's operator should hear of: out of its own files, in words of Collegium alone."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from client.agreement.approval import read_agreements
from client.institution import Institution
from client.leaving import outbox
from client.watching.metrics import Left
from shared.enrolment.certificates import WARNING_DAYS, authority_days, read_certificates
from shared.errors import CollegiumError
from shared.watching.notices import Notice


@dataclass
class Finder:
    """Looks for what holds now.

    Args:
        institution: The site.
        file: Its institution.toml, for the commands that are named.
        left: What has left so far; looked at again.
    """

    institution: Institution
    file: str
    left: Left

    def __call__(self, since: float) -> Iterator[Notice]:
        """What holds; `since` matters to none of it."""
        for each in outbox.waiting(self.institution.runtime.state):
            if each["waiting"]:
                decide = f"`collegium client outbox {self.file} --approve {each['id']}`, or --reject"
                text = f"It waits until {each['until']}: {decide}."
                yield Notice(f"held:{each['id']}", "An update waits to be released", text)
        self.left.look()
        if self.left.last_refusal == "budget":
            text = f"Training is refused; `collegium client ledger {self.file}` shows what was spent."
            yield Notice("budget", "The privacy budget is exhausted", text)
        with suppress(CollegiumError):  # whoever needs a file that is wrong says so
            agreements = read_agreements(self.institution)
            if agreements.offered and agreements.offered.digest != agreements.declined:
                text = f"`collegium client agreement {self.file}` shows how it differs, `client approve` accepts it."
                yield Notice(f"agreement:{agreements.offered.digest}", "A new agreement waits for your word", text)
        with suppress(OSError, ValueError):
            days = authority_days(read_certificates(self.institution.server.ca.read_bytes()))
            if days < WARNING_DAYS:
                name = self.institution.server.ca.name
                text = f"{days} days are left of {name}: ask the coordinator for the next one."
                yield Notice("certificate", "The coordinator's authority ends soon", text)
