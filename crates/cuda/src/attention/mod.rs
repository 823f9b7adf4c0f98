//! Causal attention on the device, in one of three ways: on tensor cores where the spec lets factors be rounded to bf16, in f32 where it does
//! not, and split over keys where a few queries look back at a long cache. All are fused: scores are never in memory, and every sum has one
//! order.
mod decode;
mod exact;
mod pieces;
mod tensor_cores;

use crate::{
    device::Device,
    driver::Address,
    kernel::{Arguments, Launch, Signature, arguments},
    memory::DeviceBuffer,
};
use paring_ops::{AttnSpec, Error, Result, want_2d, want_attention};
use paring_tensor::{DType, Tensor};

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[
    Delta::SIGNATURE,
    tensor_cores::Cast::SIGNATURE,
    tensor_cores::Forward::SIGNATURE,
    tensor_cores::BackwardQ::SIGNATURE,
    tensor_cores::BackwardKv::SIGNATURE,
    exact::Forward::SIGNATURE,
    exact::BackwardQ::SIGNATURE,
    exact::BackwardKv::SIGNATURE,
    decode::Decode::SIGNATURE,
    decode::DecodeBf16::SIGNATURE,
    decode::Combine::SIGNATURE,
];

/// The widest head that a kernel holds.
const MOST_HEAD_DIM: usize = 256;

arguments! {
    /// One number a query and head, `sum_c dy_c y_c`, and its lse times a factor, both `[heads, tokens]`.
    pub(crate) struct Delta in "attention_cast" for ["attention_delta_f32"] {
        dy: Address, y: Address, lse: Address, delta: Address, scaled_lse: Address, tokens: u32, heads: u32, head_dim: u32, factor: f32
    }
}

/// An `AttnSpec` in the numbers that kernels take, all of them below 2^31.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    past: u32,
    window: u32,
}

impl Sizes {
    /// # Errors
    /// [`Error::Unsupported`] for a head that is too wide, or more rows than the kernels count.
    fn of(op: &'static str, spec: &AttnSpec) -> Result<Sizes> {
        let unsupported = |what: String| Error::Unsupported { op, what };
        if MOST_HEAD_DIM < spec.head_dim {
            return Err(unsupported(format!("heads of {} elements, expected at most {MOST_HEAD_DIM}", spec.head_dim)));
        }
        // A tile may reach past the last row; its rows are counted all the same.
        let most = i32::MAX as usize - 256;
        let count = |what: &str, n: Option<usize>| match n.filter(|&n| n <= most).map(u32::try_from) {
            Some(Ok(n)) => Ok(n),
            _ => Err(unsupported(format!("more than {most} {what}"))),
        };
        let tokens = spec.n_tokens();
        count("keys", spec.past.checked_add(tokens))?;
        count("rows of lse", tokens.checked_mul(spec.heads))?;
        if 65_535 < spec.heads {
            return Err(unsupported(format!("{} heads, expected at most 65535", spec.heads)));
        }
        Ok(Sizes {
            tokens: count("queries", Some(tokens))?,
            heads: count("heads", Some(spec.heads))?,
            kv_heads: count("heads", Some(spec.kv_heads))?,
            head_dim: count("elements", Some(spec.head_dim))?,
            past: count("keys", Some(spec.past))?,
            // No window is one that is longer than any sequence.
            window: spec.window.map_or(i32::MAX as u32, |w| w.min(i32::MAX as usize) as u32),
        })
    }
}

pub(crate) fn attention(
    device: &Device,
    y: &mut Tensor,
    lse_tn: &mut Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spec: &AttnSpec,
) -> Result<()> {
    let op = "attention";
    want_attention(op, q, k, v, lse_tn, spec)?;
    want_2d(op, "y", y, spec.n_tokens(), spec.q_cols())?;
    let sizes = Sizes::of(op, spec)?;
    let read = |t: &Tensor| device.read(op, t, DType::F32);
    let inputs = Inputs { q: read(q)?, k: read(k)?, v: read(v)? };
    let (y, lse) = (device.write(op, y, DType::F32)?, device.write(op, lse_tn, DType::F32)?);
    if decode::fits(spec, &inputs) {
        decode::forward(device, y, lse, &inputs, spec, sizes)
    } else if tensor_cores::fits(spec) {
        tensor_cores::forward(device, y, lse, &inputs, spec, sizes)
    } else {
        exact::forward(device, y, lse, &inputs, spec, sizes)
    }
}

/// Where q, k and v lie.
#[derive(Clone, Copy, Debug)]
struct Inputs {
    q: Address,
    k: Address,
    v: Address,
}

/// Where the gradients are to go.
#[derive(Clone, Copy, Debug)]
struct Gradients {
    dq: Address,
    dk: Address,
    dv: Address,
}

pub(crate) fn attention_backward(
    device: &Device,
    dq: &mut Tensor,
    dk: &mut Tensor,
    dv: &mut Tensor,
    dy: &Tensor,
    y: &Tensor,
    lse_tn: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spec: &AttnSpec,
) -> Result<()> {
    let op = "attention_backward";
    want_attention(op, q, k, v, lse_tn, spec)?;
    if spec.past != 0 {
        return Err(Error::NotRecording { op });
    }
    let (t, q_cols, kv_cols) = (spec.n_tokens(), spec.q_cols(), spec.kv_cols());
    let shapes = [
        ("dq", &*dq, q_cols),
        ("dk", &*dk, kv_cols),
        ("dv", &*dv, kv_cols),
        ("dy", dy, q_cols),
        ("y", y, q_cols),
        ("k", k, kv_cols),
        ("v", v, kv_cols),
    ];
    for (what, x, cols) in shapes {
        want_2d(op, what, x, t, cols)?;
    }
    let sizes = Sizes::of(op, spec)?;
    let read = |t: &Tensor| device.read(op, t, DType::F32);
    let inputs = Inputs { q: read(q)?, k: read(k)?, v: read(v)? };
    let (dy, y, lse) = (read(dy)?, read(y)?, read(lse_tn)?);
    let write = |t: &mut Tensor| device.write(op, t, DType::F32);
    let gradients = Gradients { dq: write(dq)?, dk: write(dk)?, dv: write(dv)? };
    let rounded = tensor_cores::fits(spec);
    let factor = if rounded { std::f32::consts::LOG2_E } else { 1.0 };
    let saved = Saved::of(device, dy, y, lse, sizes, factor)?;
    if rounded {
        tensor_cores::backward(device, gradients, &saved, &inputs, spec, sizes)
    } else {
        exact::backward(device, gradients, &saved, &inputs, spec, sizes)
    }
}

/// What backward needs of the forward and of dy.
struct Saved {
    dy: Address,
    /// `[heads, tokens]`, times a factor.
    lse: DeviceBuffer,
    /// `[heads, tokens]`.
    delta: DeviceBuffer,
}

impl Saved {
    fn of(device: &Device, dy: Address, y: Address, lse: Address, sizes: Sizes, factor: f32) -> Result<Saved> {
        let op = "attention_backward";
        let Sizes { tokens, heads, head_dim, .. } = sizes;
        let rows = tokens as usize * heads as usize;
        let (delta, scaled_lse) = (device.scratch(op, rows * 4)?, device.scratch(op, rows * 4)?);
        let launch = Launch::over("attention_delta_f32", rows, 1, WARPS_OF_DELTA, u32::MAX);
        let launch = Launch { block: [WARPS_OF_DELTA * 32, 1, 1], ..launch };
        let (to, scaled) = (delta.address(), scaled_lse.address());
        device.launch(
            op,
            launch,
            Delta { dy, y, lse, delta: to, scaled_lse: scaled, tokens, heads, head_dim, factor },
        )?;
        Ok(Saved { dy, lse: scaled_lse, delta })
    }
}

/// Rows that a block of `attention_delta_f32` takes.
const WARPS_OF_DELTA: u32 = 8;
