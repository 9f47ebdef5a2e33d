"""An executor that only lives and dies, as the file `order` in its workspace says.

run       until SIGTERM, then exit code 0 (also without an order)
exit N    at once, with exit code N
stubborn  ignores SIGTERM, and has a child in a session of its own
untidy    has such a child too, and leaves it behind at SIGTERM
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

order = Path(os.environ["SANDBOX_WORKSPACE"]) / "order"
words = order.read_text().split() if order.exists() else ["run"]

if words[0] in ("stubborn", "untidy"):
    child = subprocess.Popen(["/bin/sleep", "1000000"], start_new_session=True)
    print("child", child.pid, flush=True)
if words[0] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    # os._exit: subprocess would wait for its child.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

print("ready", flush=True)
if words[0] == "exit":
    sys.exit(int(words[1]))
while True:
    signal.pause()
