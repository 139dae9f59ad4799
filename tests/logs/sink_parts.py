"""What the tests of the storm filter share: a sink that counts, and one place that logs."""

from loguru import logger


class Sink:
    """Keeps what it is given: lines, and the counts of summaries."""

    def __init__(self, storm_filter=None, **options):
        self.records = []
        self.texts = []
        self.id = logger.add(self._write, filter=storm_filter, format="{message}", **options)

    def _write(self, message):
        self.records.append(message.record)
        self.texts.append(str(message).rstrip("\n"))

    @property
    def lines(self):
        return [r["message"] for r in self.records if "suppressed" not in r["extra"]]

    @property
    def summaries(self):
        return [r for r in self.records if "suppressed" in r["extra"]]

    @property
    def told(self):
        return sum(r["extra"]["suppressed"] for r in self.summaries)


def fail(text, level="ERROR"):
    """Log from one place, as pipecat does every processor's error."""
    logger.log(level, text)
