//! The kernels' PTX, part of the program: the user's driver compiles it for the device at hand.

/// Names and texts. `cargo xtask kernels` makes the texts from `kernels/*.cu`.
pub const MODULES: &[(&str, &str)] = &[
    ("activation", include_str!("../../../kernels/ptx/activation.ptx")),
    ("elementwise", include_str!("../../../kernels/ptx/elementwise.ptx")),
    ("embed", include_str!("../../../kernels/ptx/embed.ptx")),
    ("loss", include_str!("../../../kernels/ptx/loss.ptx")),
    ("norm", include_str!("../../../kernels/ptx/norm.ptx")),
    ("optimizer", include_str!("../../../kernels/ptx/optimizer.ptx")),
    ("rope", include_str!("../../../kernels/ptx/rope.ptx")),
    ("statistics", include_str!("../../../kernels/ptx/statistics.ptx")),
    ("attention_cast", include_str!("../../../kernels/ptx/attention_cast.ptx")),
    ("attention_mma", include_str!("../../../kernels/ptx/attention_mma.ptx")),
    ("attention_mma_backward", include_str!("../../../kernels/ptx/attention_mma_backward.ptx")),
    ("attention_f32", include_str!("../../../kernels/ptx/attention_f32.ptx")),
    ("attention_decode", include_str!("../../../kernels/ptx/attention_decode.ptx")),
    ("gemm_bf16", include_str!("../../../kernels/ptx/gemm_bf16.ptx")),
    ("gemm_f32", include_str!("../../../kernels/ptx/gemm_f32.ptx")),
    ("gemm_passes", include_str!("../../../kernels/ptx/gemm_passes.ptx")),
    ("gemv", include_str!("../../../kernels/ptx/gemv.ptx")),
    ("gemv_quantised", include_str!("../../../kernels/ptx/gemv_quantised.ptx")),
];
