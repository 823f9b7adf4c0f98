"""llama.cpp's side of `cargo xtask bench`: its C API by ctypes, out of a Python package that ships it, so that no Python is timed.

usage: llama_peer.py THREADS        needs: xllamacpp, or llama-cpp-python
Answers the lines of `examples/compare/ours.rs`. llama.cpp computes the logits of the last position alone. Its defaults hold: keys and
values in f16, flash attention where it likes, weights repacked at load where it knows how.
"""

import ctypes
import glob
import importlib.metadata
import importlib.util
import os
import random
import sys
import time

import peer

THREADS = int(sys.argv[1])

# Where packages keep the library.
PACKAGES = {
    "xllamacpp": ("xllamacpp", "xllamacpp*.so"),
    "llama_cpp": ("llama-cpp-python", "lib/libllama.*"),
}


def library():
    for package, (name, pattern) in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        for path in glob.glob(os.path.join(os.path.dirname(spec.origin), pattern)) if spec and spec.origin else []:
            return ctypes.CDLL(path), f"{name} {importlib.metadata.version(name)}"
    peer.answer({"missing": f"none of {', '.join(PACKAGES)} is installed ({sys.executable})"})
    sys.exit(0)


LLAMA, PACKAGE = library()


class Opaque(ctypes.Structure):
    """A C struct that is passed by value and whose fields differ between versions.

    Large structs travel in memory: the callee writes as much of this as it has, and reads as much from its front. Larger than any.
    """

    _fields_ = [("front", ctypes.c_uint32 * 4), ("rest", ctypes.c_uint8 * 1008)]


P, I32, BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
TOKENS = ctypes.POINTER(I32)


def bind(name, result, *arguments):
    f = getattr(LLAMA, name)
    f.restype, f.argtypes = result, arguments
    return f


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, P)
quiet = LOG(lambda level, text, data: None)
bind("llama_log_set", None, LOG, P)(quiet, None)
bind("llama_backend_init", None)()
if hasattr(LLAMA, "ggml_backend_load_all"):
    bind("ggml_backend_load_all", None)()
system_info = bind("llama_print_system_info", ctypes.c_char_p)
model_defaults = bind("llama_model_default_params", Opaque)
context_defaults = bind("llama_context_default_params", Opaque)
load_model = bind("llama_model_load_from_file", P, ctypes.c_char_p, Opaque)
free_model = bind("llama_model_free", None, P)
new_context = bind("llama_init_from_model", P, P, Opaque)
free_context = bind("llama_free", None, P)
set_threads = bind("llama_set_n_threads", None, P, I32, I32)
describe = bind("llama_model_desc", I32, P, ctypes.c_char_p, ctypes.c_size_t)
vocab_of = bind("llama_model_get_vocab", P, P)
n_vocab = bind("llama_vocab_n_tokens", I32, P)
memory_of = bind("llama_get_memory", P, P)
clear = bind("llama_memory_clear", None, P, BOOL)
batch_of = bind("llama_batch_get_one", Opaque, TOKENS, I32)
decode_batch = bind("llama_decode", I32, P, Opaque)
logits_of = bind("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), P, I32)
synchronize = bind("llama_synchronize", None, P)


def hello():
    features = [f.split(" = ")[0] for f in system_info().decode().removeprefix("CPU : ").split(" | ") if f.strip()]
    version = f"llama.cpp of {PACKAGE} ({' '.join(features)}), {THREADS} threads"
    return {"name": "llama.cpp", "version": version, "formats": ["gguf"]}


class Run:
    """A model and a context, freed with it."""

    def __init__(self, case):
        self.context = None
        self.model = load_model(case["model"].encode(), model_defaults())
        if not self.model:
            raise peer.Refused(f"llama.cpp cannot load {case['model']}")
        params = context_defaults()
        # n_ctx, n_batch, n_ubatch are the first fields of every version; the rest stays as it is.
        params.front[0], params.front[1] = 1024, 2048
        self.context = new_context(self.model, params)
        if not self.context:
            raise peer.Refused("llama.cpp cannot make a context")
        set_threads(self.context, THREADS, THREADS)
        draw, vocab = random.Random(0), n_vocab(vocab_of(self.model))
        self.ids = [draw.randrange(vocab) for _ in range(case["tokens"] + case.get("prompt", 0))]
        self.case = case

    def __del__(self):
        if self.context:
            free_context(self.context)
        if self.model:
            free_model(self.model)

    def feed(self, ids):
        tokens = (I32 * len(ids))(*ids)
        status = decode_batch(self.context, batch_of(tokens, len(ids)))
        synchronize(self.context)
        # The logits are read, so that they are there.
        if status != 0 or logits_of(self.context, -1)[0] != logits_of(self.context, -1)[0]:
            raise RuntimeError(f"llama_decode: {status}")

    def __call__(self):
        clear(memory_of(self.context), True)
        prompt = self.case.get("prompt", 0)
        if prompt:
            self.feed(self.ids[:prompt])
        # A decoding step is one token; a prefill is one batch.
        size = 1 if self.case["kind"] == "decode" else self.case["tokens"]
        start = time.perf_counter()
        for at in range(prompt, len(self.ids), size):
            self.feed(self.ids[at : at + size])
        return time.perf_counter() - start


def setup(case):
    if case["kind"] not in ("prefill", "decode") or case.get("logits", "last") != "last":
        raise peer.Refused("llama.cpp prefills for the last logits, and decodes")
    return Run(case)


peer.serve(hello, setup)
