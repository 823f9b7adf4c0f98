//! Causal softmax attention with grouped heads (Vaswani et al., arXiv 1706.03762; Ainslie et al., arXiv 2305.13245), one query of one head
//! at a time, within a window (Jiang et al., arXiv 2310.06825) and with scores softly capped (Gemma 2, arXiv 2408.00118) where the model
//! has that. Only the scores of that query are in memory.
//!
//! Legend: `j` is a key that the query sees, `c` an element of a head.
use paring_ops::AttnSpec;
use std::ops::Range;

/// One query of one head: where it lies in q and y, where its head lies in a row of k and v, and the keys that it sees.
struct Query {
    /// Row of lse: `t * heads + head`.
    index: usize,
    /// First element in q, y and their gradients.
    q_at: usize,
    /// First column in k, v and their gradients.
    kv_col: usize,
    /// Rows of k and v from the first that the query sees to the query itself.
    keys: Range<usize>,
}

/// All queries of all heads, in the order of memory.
fn queries(spec: &AttnSpec) -> impl Iterator<Item = Query> {
    let sequences = spec.cu_len.windows(2);
    sequences.flat_map(|bounds| (bounds[0]..bounds[1]).map(|t| (bounds[0], t))).flat_map(move |(first, t)| {
        // With a cache there is one sequence, whose first key is row 0 = `first`.
        (0..spec.heads).map(move |head| Query {
            index: t * spec.heads + head,
            q_at: t * spec.q_cols() + head * spec.head_dim,
            kv_col: head / spec.group() * spec.head_dim,
            keys: first + spec.first_key(spec.past + t - first)..spec.past + t + 1,
        })
    })
}

/// A query's scores made into probabilities.
struct Softmax {
    /// `p_j = softmax_j(s_j)` with `s_j = scale q . k_j`, or `s_j = cap tanh(scale q . k_j / cap)`.
    p: Vec<f64>,
    /// The derivative of `s_j` with respect to `scale q . k_j`: 1, or `1 - tanh^2`.
    slope: Vec<f64>,
    /// The log of the normaliser, `log sum_j exp(s_j)`.
    lse: f64,
}

fn softmax(q: &[f64], k: &[f64], query: &Query, spec: &AttnSpec) -> Softmax {
    let products = query.keys.clone().map(|j| dot(&q[query.q_at..], row(k, j, query, spec), spec.head_dim));
    let capped = |x: f64| match spec.softcap.map(f64::from) {
        None => (x, 1.0),
        // 1 - tanh^2 = 1 / cosh^2, which does not cancel.
        Some(cap) => (cap * (x / cap).tanh(), (x / cap).cosh().powi(-2)),
    };
    let (scores, slope): (Vec<f64>, Vec<f64>) = products.map(|qk| capped(f64::from(spec.scale) * qk)).unzip();
    // Without its maximum, a score of 1000 would overflow.
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
    Softmax { p: scores.iter().map(|s| (s - lse).exp()).collect(), slope, lse }
}

/// Row `j` of k or v, from the query's head on.
fn row<'a>(kv: &'a [f64], j: usize, query: &Query, spec: &AttnSpec) -> &'a [f64] {
    &kv[j * spec.kv_cols() + query.kv_col..]
}

fn dot(a: &[f64], b: &[f64], h: usize) -> f64 {
    (0..h).map(|c| a[c] * b[c]).sum()
}

/// `y = sum_j p_j v_j`.
pub(crate) fn attention(y: &mut [f32], lse: &mut [f32], q: &[f64], k: &[f64], v: &[f64], spec: &AttnSpec) {
    for query in queries(spec) {
        let Softmax { p, lse: query_lse, .. } = softmax(q, k, &query, spec);
        lse[query.index] = query_lse as f32;
        for c in 0..spec.head_dim {
            let sum: f64 = query.keys.clone().zip(&p).map(|(j, p)| p * row(v, j, &query, spec)[c]).sum();
            y[query.q_at + c] = sum as f32;
        }
    }
}

/// With `dp_j = dy . v_j` and the gradient of the softmax, `ds_j = p_j (dp_j - sum_i p_i dp_i)` (Dao et al., "FlashAttention",
/// arXiv 2205.14135, appendix B.2):
///
/// - `dv_j += p_j dy`
/// - `dq = scale sum_j slope_j ds_j k_j`
/// - `dk_j += scale slope_j ds_j q`
///
/// The sums of `dk` and `dv` run over the queries that see the key, in all heads of its group.
pub(crate) fn attention_backward(
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    dy: &[f64],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    spec: &AttnSpec,
) {
    let (h, scale) = (spec.head_dim, f64::from(spec.scale));
    let (mut dk_sum, mut dv_sum) = (vec![0.0; dk.len()], vec![0.0; dv.len()]);
    for query in queries(spec) {
        let Softmax { p, slope, .. } = softmax(q, k, &query, spec);
        let dy = &dy[query.q_at..][..h];
        let dp: Vec<f64> = query.keys.clone().map(|j| dot(dy, row(v, j, &query, spec), h)).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        let mut dq_sum = vec![0.0; h];
        for (i, j) in query.keys.clone().enumerate() {
            let ds = scale * slope[i] * p[i] * (dp[i] - mean);
            let at = j * spec.kv_cols() + query.kv_col;
            for c in 0..h {
                dv_sum[at + c] += p[i] * dy[c];
                dq_sum[c] += ds * k[at + c];
                dk_sum[at + c] += ds * q[query.q_at + c];
            }
        }
        for c in 0..h {
            dq[query.q_at + c] = dq_sum[c] as f32;
        }
    }
    for (out, sum) in dk.iter_mut().zip(dk_sum).chain(dv.iter_mut().zip(dv_sum)) {
        *out = sum as f32;
    }
}
