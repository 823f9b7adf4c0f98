"""PyTorch's side of `cargo xtask bench`: a process that is told what to time, one JSON object a line, so that rounds can alternate.

usage: torch_peer.py THREADS        needs: torch; transformers for the cases with a model
The same lines as `examples/compare/ours.rs` answers; the cases are described in `examples/compare/cases.rs`.
"""

import gc
import sys
import time
import warnings

import peer

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    peer.answer({"missing": f"{error} ({sys.executable})"})
    sys.exit(0)

warnings.simplefilter("ignore")
torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[1]))
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def hello():
    try:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        models = f"Transformers {transformers.__version__}"
    except ImportError:
        models = "no Transformers"
    threads = torch.get_num_threads()
    return {"name": "PyTorch", "version": f"PyTorch {torch.__version__}, {models}, {threads} threads", "formats": ["directory"]}


def load(case, dtype):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(case["model"], dtype=DTYPES[dtype], attn_implementation="sdpa")


def ids_of(model, *shape):
    return torch.randint(0, model.config.vocab_size, shape)


def timed(f):
    def run():
        start = time.perf_counter()
        f()
        return time.perf_counter() - start

    return run


def gemm(case):
    dtype, m, n, k = DTYPES[case["dtype"]], case["m"], case["n"], case["k"]
    x, w, dy = (torch.randn(*dims, dtype=dtype) for dims in ((m, k), (n, k), (m, n)))
    forms = {"forward": lambda: F.linear(x, w), "dx": lambda: torch.mm(dy, w), "dw": lambda: torch.mm(dy.t(), x)}
    return timed(torch.no_grad()(forms[case["form"]]))


def prefill(case):
    if case["logits"] != "all":
        raise peer.Refused("only prefill with all logits is timed against PyTorch")
    model = load(case, case["dtype"]).eval()
    ids = ids_of(model, 1, case["tokens"])
    return timed(torch.no_grad()(lambda: model(input_ids=ids)))


def decode(case):
    """The prompt is not timed; the loop is bare, without the overhead of `generate`."""
    model = load(case, case["dtype"]).eval()
    prompt = ids_of(model, 1, case["prompt"])

    @torch.no_grad()
    def run():
        out = model(input_ids=prompt, use_cache=True)
        start = time.perf_counter()
        for _ in range(case["tokens"]):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        return time.perf_counter() - start

    return run


def optimizer(model):
    return torch.optim.AdamW(model.parameters(), 1e-5, fused=True)


def update(model, opt, loss):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    opt.zero_grad(set_to_none=True)


def train(case):
    """bf16 is autocast over f32 weights: what our f32 masters and bf16 products are."""
    model = load(case, "f32").train()
    opt, ids = optimizer(model), ids_of(model, case["windows"], case["context"])

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case["dtype"] == "bf16"):
            loss = model(input_ids=ids, labels=ids).loss
        update(model, opt, loss)

    return timed(step)


def distil(case):
    """Forward KL to a bf16 teacher that is the same model, so that the figure does not depend on a pruned one."""
    model, teacher = load(case, "f32").train(), load(case, "bf16").eval()
    opt, ids = optimizer(model), ids_of(model, case["windows"], case["context"])

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case["dtype"] == "bf16"):
            logits = model(input_ids=ids).logits
        with torch.no_grad():
            target = torch.log_softmax(teacher(input_ids=ids).logits.float(), -1).flatten(0, 1)
        student = torch.log_softmax(logits.float(), -1).flatten(0, 1)
        update(model, opt, F.kl_div(student, target, log_target=True, reduction="batchmean"))

    return timed(step)


def setup(case):
    gc.collect()  # the last case's model, before the next is loaded
    return {"gemm": gemm, "prefill": prefill, "decode": decode, "train": train, "distil": distil}[case["kind"]](case)


peer.serve(hello, setup)
