//! What the tests of several crates share: the golden models of `fixtures/golden`, random models, the backends, and how far apart two
//! lists of numbers are.
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_checkpoint::{SafetensorsFile, TensorSource};
use paring_cpu::{Cpu, Isa};
use paring_exec::{Ctx, Grads};
use paring_model::{Arch, Batch, Model, Opened, ParamSpec, open, params};
use paring_ops::{Backend, HeadGrads};
use paring_reference::Reference;
use paring_sampling::rng::Rng;
use paring_tensor::{DType, Shape, Tensor};
use std::{collections::BTreeMap, path::PathBuf};

/// Directories of `fixtures/golden`.
pub(crate) const FAMILIES: [&str; 2] = ["llama", "llama-tied"];

/// A model and what PyTorch computes with it.
pub(crate) struct Golden {
    pub(crate) opened: Opened,
    /// The token ids of each sequence.
    pub(crate) sequences: Vec<Vec<u32>>,
    file: SafetensorsFile,
}

impl Golden {
    pub(crate) fn open(family: &str) -> Self {
        // Every crate of the workspace lies two levels below the root.
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(family);
        let file = SafetensorsFile::open(&dir.join("golden.safetensors")).unwrap();
        let length = file.info("tokens").unwrap().shape[1];
        let ids: Vec<u32> = file.read_i64("tokens").unwrap().into_iter().map(|id| id.try_into().unwrap()).collect();
        Golden { opened: open(&dir).unwrap(), sequences: ids.chunks(length).map(<[u32]>::to_vec).collect(), file }
    }

    pub(crate) fn get(&self, name: &str) -> Vec<f32> {
        self.file.read_f32(name).unwrap()
    }

    pub(crate) fn scalar(&self, name: &str) -> f64 {
        let values = self.get(name);
        assert_eq!(values.len(), 1, "{name}");
        values[0].into()
    }

    /// Both sequences, packed.
    pub(crate) fn batch(&self) -> Batch {
        Batch::pack(self.sequences.iter().map(Vec::as_slice))
    }

    pub(crate) fn arch(&self) -> &Arch {
        &self.opened.arch
    }

    pub(crate) fn model(&self, backend: &dyn Backend) -> Model {
        Model::load(self.arch(), self.opened.source(), backend, DType::F32).unwrap()
    }

    pub(crate) fn values(&self) -> Vec<(ParamSpec, Vec<f32>)> {
        let read = |p: ParamSpec| (p.clone(), self.opened.source().read_f32(&p.name).unwrap());
        params(self.arch()).into_iter().map(read).collect()
    }
}

/// A config.json of a random model: widths that are multiples of 32 (a block of ggml), and no two alike where they could be mistaken.
pub(crate) fn config(tied: bool) -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 301,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": tied, "max_position_embeddings": 128,
    })
}

/// Random parameters of a size that keeps activations near 1, gains near 1.
pub(crate) fn random_values(arch: &Arch, seed: u64) -> Vec<(ParamSpec, Vec<f32>)> {
    let rng = Rng::new(seed);
    let of = |p: ParamSpec| {
        let normal = |i: usize| rng.normal(p.id.0 as u64, i as u64);
        let value = |i: usize| match p.shape[..] {
            [_] => 1.0 + 0.1 * normal(i),
            _ => normal(i) / (p.shape[1] as f64).sqrt(),
        };
        let values = (0..p.elements()).map(|i| value(i) as f32).collect();
        (p, values)
    };
    params(arch).into_iter().map(of).collect()
}

/// Random token ids.
pub(crate) fn random_ids(vocab: usize, n: usize, seed: u64) -> Vec<u32> {
    (0..n).map(|i| Rng::new(seed).below(0x1d5, i as u64, vocab as u64) as u32).collect()
}

/// A model of the values given, all in `dtype` but the gains of norms.
pub(crate) fn model(backend: &dyn Backend, arch: &Arch, values: &[(ParamSpec, Vec<f32>)], dtype: DType) -> Model {
    let upload = |(p, values): &(ParamSpec, Vec<f32>)| {
        let dtype = if p.shape.len() == 1 { DType::F32 } else { dtype };
        backend.upload(values, dtype, Shape::new(&p.shape).unwrap()).unwrap()
    };
    Model::from_tensors(arch.clone(), backend, values.iter().map(upload).collect()).unwrap()
}

/// Every backend, the CPU with every set of instructions that this machine has.
pub(crate) fn backends() -> Vec<(String, Box<dyn Backend>)> {
    let mut all: Vec<(String, Box<dyn Backend>)> = vec![("reference".into(), Box::new(Reference))];
    for isa in Isa::all_available() {
        all.push((format!("cpu {isa:?}"), Box::new(Cpu::with_isa(Some(2), isa).unwrap())));
    }
    all
}

/// The CPU with `threads` threads.
pub(crate) fn cpu(threads: usize) -> Cpu {
    Cpu::new(Some(threads)).unwrap()
}

/// The final norm's output.
pub(crate) fn hidden(backend: &dyn Backend, model: &Model, batch: &Batch) -> Tensor {
    model.hidden(&mut Ctx::infer(backend), batch, None).unwrap().tensor
}

/// Logits of every row.
pub(crate) fn logits(backend: &dyn Backend, model: &Model, batch: &Batch) -> Vec<f32> {
    backend.download(&model.logits(backend, &hidden(backend, model, batch)).unwrap()).unwrap()
}

/// The mean next-token cross-entropy and the gradient of every parameter, in the order of their ids.
pub(crate) fn gradients(backend: &dyn Backend, model: &Model, batch: &Batch, recompute: bool) -> (f64, Vec<Vec<f32>>) {
    let mut grads = Grads::new(&model.shapes());
    let mut cx = Ctx::record(backend).recompute(recompute);
    let x = model.hidden(&mut cx, batch, None).unwrap();
    let mut dx = backend.alloc(DType::F32, x.tensor.shape()).unwrap();
    let (head, targets) = (model.head(), batch.next_tokens());
    let into = HeadGrads { dx_td: &mut dx, dw_vd: Some(grads.get_mut(backend, head.id).unwrap()) };
    let scale = 1.0 / batch.n_targets() as f32;
    let loss = backend.head_cross_entropy(Some(into), &x.tensor, &head.tensor, &targets, scale).unwrap();
    cx.backward(&x, dx, &mut grads).unwrap();
    let all = model.specs().iter().map(|p| backend.download(&grads.take(backend, p.id).unwrap()).unwrap()).collect();
    (loss / batch.n_targets() as f64, all)
}

/// `sum (got - want)^2 / sum want^2`.
pub(crate) fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    let size: f64 = want.iter().map(|&w| square(w.into())).sum();
    assert!(0.0 < size, "nothing to compare with");
    error / size
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The worst figure of every quantity, printed when it goes.
pub(crate) struct Figures {
    of: String,
    worst: BTreeMap<String, (f64, String)>,
}

impl Figures {
    pub(crate) fn new(of: &str) -> Self {
        Figures { of: of.into(), worst: BTreeMap::new() }
    }

    /// Holds `got` against `bound`; `what` says which of the quantity's tensors it is.
    pub(crate) fn check(&mut self, quantity: &str, what: &str, got: f64, bound: f64) {
        let worst = self.worst.entry(quantity.into()).or_insert((0.0, what.into()));
        if worst.0 < got {
            *worst = (got, what.into());
        }
        // Not `bound < got`: a NaN is no success.
        assert!(got <= bound, "{}: {quantity} of {what} is off by {got:e}, at most {bound:e} allowed", self.of);
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        for (quantity, (got, what)) in &self.worst {
            println!("{}: {quantity} {got:.1e} (worst: {what})", self.of);
        }
    }
}
