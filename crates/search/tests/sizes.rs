//! Formulas against the table of parameters, over random shapes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_model::{Arch, Family, LayerArch, Rope};
use paring_prune::{Dims, count_params, flops_per_token, kv_bytes, weight_bytes};
use paring_search::{Sizes, dims_of};
use paring_surgery::arch_of;
use paring_tensor::DType;
use proptest::prelude::*;

fn arch(d: &Dims) -> Arch {
    let base = Arch {
        family: Family::Llama,
        vocab: d.vocab,
        hidden: 1,
        head_dim: d.head_dim,
        rms_eps: 1e-5,
        tied: d.tied,
        rope: Rope { theta: 1e4, llama3: None },
        max_positions: 64,
        layers: Vec::new(),
    };
    arch_of(&base, d)
}

proptest! {
    #[test]
    fn the_formulas_count_what_the_table_holds(
        (layers, hidden, ffn, kv_groups) in (1usize..6, 1usize..40, 1usize..70, 1usize..5),
        (per_group, half_dim, vocab, tied, context) in (1usize..4, 1usize..9, 1usize..90, any::<bool>(), 0usize..300),
        bf16 in any::<bool>(),
    ) {
        let d = Dims { layers, hidden, ffn, heads: kv_groups * per_group, kv_groups, head_dim: 2 * half_dim, vocab, tied };
        let (a, dtype) = (arch(&d), if bf16 { DType::BF16 } else { DType::F32 });
        prop_assert_eq!(dims_of(&a).unwrap(), d);
        let s = Sizes::of(&a, dtype, context);
        let p = count_params(&d);
        prop_assert_eq!((s.params, s.params_non_embedding), (p.total, p.non_embedding));
        prop_assert_eq!(s.weight_bytes, weight_bytes(&d, dtype.bytes(1)));
        prop_assert_eq!(s.kv_bytes, kv_bytes(&d, context, 4));
        prop_assert_eq!(s.memory_bytes, s.weight_bytes + s.kv_bytes);
        prop_assert!((s.flops_per_token - flops_per_token(&d, context)).abs() <= 1e-9 * s.flops_per_token);
    }
}

#[test]
fn the_papers_gated_models_count_exactly_in_the_table() {
    let llama = |layers, hidden, ffn| Dims {
        layers,
        hidden,
        ffn,
        heads: 32,
        kv_groups: 8,
        head_dim: 128,
        vocab: 128_256,
        tied: false,
    };
    let nemo = Dims { layers: 40, vocab: 131_072, ..llama(40, 4096, 11_520) };
    for (dims, billions) in [(llama(32, 3072, 9216), 4.513), (llama(16, 4096, 14_336), 4.540), (nemo, 8.414)] {
        let params = Sizes::of(&arch(&dims), DType::BF16, 8192).params as f64;
        assert_eq!((params / 1e6).round() / 1e3, billions, "{dims:?}");
    }
}

#[test]
fn a_model_of_unlike_layers_is_refused() {
    let d = Dims { layers: 2, hidden: 8, ffn: 16, heads: 2, kv_groups: 1, head_dim: 4, vocab: 9, tied: true };
    let mut a = arch(&d);
    a.layers[1] = LayerArch { ffn: 12, ..a.layers[1] };
    assert!(dims_of(&a).unwrap_err().to_string().contains("differ in size"));
}
