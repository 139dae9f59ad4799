"""Time passes only where nobody has anything to do, and then at once."""

import asyncio
import selectors


class _Selector(selectors.DefaultSelector):
    """Where the loop would sleep until a timer is due, lets that time be over."""

    def __init__(self):
        super().__init__()
        self.secs = 0.0
        #: Threads that work for the loop: they take real time, so it stands still meanwhile.
        self.threads = 0

    def select(self, timeout=None):
        if timeout and self.threads:
            return super().select(0.01)
        events = super().select(0 if timeout else timeout)
        if timeout and not events:
            self.secs += timeout
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def run_in_executor(self, executor, func, *args):
        self._jumping.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._one_thread_less)
        return future

    def _one_thread_less(self, future):
        self._jumping.threads -= 1

    def time(self):
        return 1000.0 + self._jumping.secs


class Jumping(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return _Loop()
