//! Activations of the MLP, gated and not.
use crate::{
    device::Device,
    driver::Address,
    grid::{aligned, groups},
    kernel::{Arguments, Signature, arguments},
};
use paring_ops::{Activation, Result, want_elements};
use paring_tensor::{DType::F32, Tensor};

arguments! {
    /// `y = act(x)`.
    struct Plain in "activation" for ["activation_silu", "activation_gelu", "activation_gelu_tanh", "activation_relu2"] {
        x: Address, y: Address, n: u64, groups: u64,
    }
}
arguments! {
    /// `dx = dy act'(x)`.
    struct PlainBackward in "activation" for [
        "activation_backward_silu", "activation_backward_gelu", "activation_backward_gelu_tanh", "activation_backward_relu2",
    ] { dy: Address, x: Address, dx: Address, n: u64, groups: u64 }
}
arguments! {
    /// `y = act(gate) up`.
    struct Gated in "activation" for ["gated_silu", "gated_gelu", "gated_gelu_tanh", "gated_relu2"] {
        gate: Address, up: Address, y: Address, n: u64, groups: u64,
    }
}
arguments! {
    /// Gradients of both.
    struct GatedBackward in "activation" for [
        "gated_backward_silu", "gated_backward_gelu", "gated_backward_gelu_tanh", "gated_backward_relu2",
    ] { dy: Address, gate: Address, up: Address, dgate: Address, dup: Address, n: u64, groups: u64 }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] =
    &[Plain::SIGNATURE, PlainBackward::SIGNATURE, Gated::SIGNATURE, GatedBackward::SIGNATURE];

/// The kernel of `A` for this function: entries stand in the order of [`Activation::ALL`].
fn entry<A: Arguments>(act: Activation) -> &'static str {
    let [silu, gelu, gelu_tanh, relu2] = [0, 1, 2, 3].map(|i| A::SIGNATURE.entries.get(i).copied().unwrap_or_default());
    match act {
        Activation::Silu => silu,
        Activation::Gelu => gelu,
        Activation::GeluTanh => gelu_tanh,
        Activation::Relu2 => relu2,
    }
}

pub(crate) fn gated(device: &Device, y: &mut Tensor, act: Activation, gate: &Tensor, up: &Tensor) -> Result<()> {
    let (op, n) = ("gated", y.elements());
    want_elements(op, "gate", gate, n)?;
    want_elements(op, "up", up, n)?;
    let (gate, up, y) = (device.read(op, gate, F32)?, device.read(op, up, F32)?, device.write(op, y, F32)?);
    let (launch, groups) = groups(entry::<Gated>(act), n, 4, aligned(&[(gate, 16), (up, 16), (y, 16)]));
    device.launch(op, launch, Gated { gate, up, y, n: n as u64, groups })
}

pub(crate) fn gated_backward(
    device: &Device,
    dgate: &mut Tensor,
    dup: &mut Tensor,
    act: Activation,
    dy: &Tensor,
    gate: &Tensor,
    up: &Tensor,
) -> Result<()> {
    let (op, n) = ("gated_backward", dy.elements());
    for (what, t) in [("dgate", &*dgate), ("dup", &*dup), ("gate", gate), ("up", up)] {
        want_elements(op, what, t, n)?;
    }
    let (dy, gate, up) = (device.read(op, dy, F32)?, device.read(op, gate, F32)?, device.read(op, up, F32)?);
    let (dgate, dup) = (device.write(op, dgate, F32)?, device.write(op, dup, F32)?);
    let aligned = aligned(&[dy, gate, up, dgate, dup].map(|address| (address, 16)));
    let (launch, groups) = groups(entry::<GatedBackward>(act), n, 4, aligned);
    device.launch(op, launch, GatedBackward { dy, gate, up, dgate, dup, n: n as u64, groups })
}

pub(crate) fn activation(device: &Device, y: &mut Tensor, act: Activation, x: &Tensor) -> Result<()> {
    let (op, n) = ("activation", y.elements());
    want_elements(op, "x", x, n)?;
    let (x, y) = (device.read(op, x, F32)?, device.write(op, y, F32)?);
    let (launch, groups) = groups(entry::<Plain>(act), n, 4, aligned(&[(x, 16), (y, 16)]));
    device.launch(op, launch, Plain { x, y, n: n as u64, groups })
}

pub(crate) fn activation_backward(
    device: &Device,
    dx: &mut Tensor,
    act: Activation,
    dy: &Tensor,
    x: &Tensor,
) -> Result<()> {
    let (op, n) = ("activation_backward", dx.elements());
    want_elements(op, "dy", dy, n)?;
    want_elements(op, "x", x, n)?;
    let (dy, x, dx) = (device.read(op, dy, F32)?, device.read(op, x, F32)?, device.write(op, dx, F32)?);
    let (launch, groups) = groups(entry::<PlainBackward>(act), n, 4, aligned(&[(dy, 16), (x, 16), (dx, 16)]));
    device.launch(op, launch, PlainBackward { dy, x, dx, n: n as u64, groups })
}
