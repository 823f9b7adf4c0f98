"""What both peers have in common: the loop over lines, and this process's peak of memory."""

import json
import sys

# The protocol owns stdout: what a library prints goes to stderr.
_OUT, sys.stdout = sys.stdout, sys.stderr


class Refused(Exception):
    """A case that this side does not have."""


def answer(value):
    print(json.dumps(value), file=_OUT, flush=True)


def memory(reset):
    """The peak of resident memory in bytes, since the start or the last reset; None where the system does not say."""
    try:
        with open("/proc/self/status") as status:
            peak = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")]
        if reset:
            with open("/proc/self/clear_refs", "w") as refs:
                refs.write("5")
    except OSError:
        return None
    return peak[0] if peak else None


def serve(hello, setup):
    """`setup(case)` gives a function that does the case once and returns its seconds."""
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            match request["do"]:
                case "hello":
                    answer(hello())
                case "setup":
                    run = None  # drops the last case before the next is there
                    run = setup(request["case"])
                    answer({})
                case "run":
                    total, times = 0.0, 0
                    while times == 0 or total < request["seconds"]:
                        total, times = total + run(), times + 1
                    answer({"seconds": total / times})
                case "memory":
                    answer({"peak": memory(request["reset"])})
                case other:
                    answer({"error": f"there is no `{other}`"})
        except Exception as error:  # the driver names the case and goes on with the next
            answer({"error": f"{type(error).__name__}: {error}"})
