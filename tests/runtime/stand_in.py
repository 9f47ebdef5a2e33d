"""An executor that only lives and dies, as the file `order` in its workspace says.

run         until SIGTERM, then exit code 0 (also without an order)
exit N      at once, with exit code N; its last words are "exit N: /a/b c"
stubborn    ignores SIGTERM, and has a child in a session of its own
untidy      has such a child too, and leaves it behind at SIGTERM
busy N      holds N MiB of memory in a child in a session of its own, which uses a core
say WORDS   prints a line for each word, with the time of the Unix second that the word is
tick        prints the lines "tick 0", "tick 1" and so on, each in two halves, for ever
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

order = Path(os.environ["SANDBOX_WORKSPACE"]) / "order"
words = order.read_text().split() if order.exists() else ["run"]
# os._exit: subprocess would wait for its child.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def say(*said: object, end: str = "\n") -> None:
    print(*said, end=end, flush=True)


def stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(second))


if words[0] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if words[0] in ("stubborn", "untidy"):
    child = subprocess.Popen(["/bin/sleep", "1000000"], start_new_session=True)
    say("child", child.pid)
if words[0] == "busy":
    use = f"held = b'x' * ({words[1]} << 20)\nwhile True: pass"
    subprocess.Popen([sys.executable, "-c", use], start_new_session=True)
if words[0] == "say":
    for word in words[1:]:
        say(stamp(int(word)), "INFO at", word)
        say("  and more of it")

say("ready")
if words[0] == "exit":
    say(stamp(0), "ERROR exit", f"{words[1]}: /a/b c")
    sys.exit(int(words[1]))
if words[0] == "tick":
    for count in itertools.count():
        say("tick", end=" ")
        time.sleep(0.01)
        say(count)
while True:
    signal.pause()
