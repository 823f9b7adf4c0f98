//! The tape against finite differences, on a two-layer model that uses every operation, tied head included.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_exec::{Ctx, Grads, KvCache, Observer, ParamId, Site, Tap, Var, Weight};
use paring_ops::{Accum, Activation, AttnSpec, Backend, HeadGrads, IGNORE, Result};
use paring_reference::Reference;
use paring_tensor::{DType, Shape, Tensor};
use std::sync::Arc;

const V: usize = 11;
const D: usize = 8;
const HEADS: usize = 4;
const KV: usize = 2;
const HD: usize = 2;
const F: usize = 9;
const LAYERS: usize = 2;
const IDS: [u32; 6] = [1, 4, 2, 9, 3, 4];
const TARGETS: [u32; 6] = [4, 2, 9, IGNORE, 4, 7];
const CU: [usize; 3] = [0, 4, 6];

struct Model {
    weights: Vec<Weight>,
    table: Tensor,
}

fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).unwrap()
}

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((s >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.8
        })
        .collect()
}

impl Model {
    fn new(b: &dyn Backend) -> Model {
        let mut dims = vec![vec![V, D]];
        for _ in 0..LAYERS {
            let (q, kv) = (vec![HEADS * HD, D], vec![KV * HD, D]);
            dims.extend([vec![D], q, kv.clone(), kv, vec![D, HEADS * HD], vec![D], vec![F, D], vec![F, D], vec![D, F]]);
        }
        dims.push(vec![D]);
        let weight = |(i, dims): (usize, &Vec<usize>)| {
            let mut values = noise(dims.iter().product(), i as u64 + 1);
            if dims.len() == 1 {
                values.iter_mut().for_each(|v| *v = 1.0 + 0.1 * *v);
            }
            Weight { id: ParamId(i), tensor: b.upload(&values, DType::F32, shape(dims)).unwrap() }
        };
        let angle = |p: usize| (p as f32 * 0.7).cos();
        let table: Vec<f32> = (0..8).flat_map(|p| [angle(p), (p as f32 * 0.7).sin()]).collect();
        let table = b.upload(&table, DType::F32, shape(&[8, HD])).unwrap();
        Model { weights: dims.iter().enumerate().map(weight).collect(), table }
    }

    fn block<'m>(
        &'m self,
        cx: &mut Ctx<'m, '_>,
        l: usize,
        x: Var,
        past: usize,
        n: usize,
        kv: Option<&mut KvCache>,
    ) -> Result<Var> {
        let w = |i: usize| &self.weights[1 + 9 * l + i];
        let cu = if kv.is_some() || n != IDS.len() { vec![0, n] } else { CU.to_vec() };
        let positions: Arc<[u32]> =
            cu.windows(2).flat_map(|w| (0..w[1] - w[0]).map(|p| (past + p) as u32)).collect::<Vec<_>>().into();
        let spec = Arc::new(AttnSpec { past, ..AttnSpec::packed(HEADS, KV, HD, cu) });
        let h = cx.rms_norm(&x, w(0), 1e-5)?;
        let (q, k, v) = (cx.linear(&h, w(1))?, cx.linear(&h, w(2))?, cx.linear(&h, w(3))?);
        let (q, k) = (cx.rope(q, &self.table, &positions)?, cx.rope(k, &self.table, &positions)?);
        let a = cx.attention(l, &q, &k, &v, &spec, kv)?;
        cx.tap(Site { layer: l, tap: Tap::AttnOut }, &a)?;
        let o = cx.linear(&a, w(4))?;
        let (x, h) = cx.add_rms_norm(&x, &o, w(5), 1e-5)?;
        let (g, u) = (cx.linear(&h, w(6))?, cx.linear(&h, w(7))?);
        let m = cx.gated(Activation::Silu, &g, &u)?;
        cx.tap(Site { layer: l, tap: Tap::MlpHidden }, &m)?;
        let d = cx.linear(&m, w(8))?;
        let x = cx.add(x, &d)?;
        cx.tap(Site { layer: l, tap: Tap::BlockOut }, &x)?;
        Ok(x)
    }

    fn hidden<'m>(&'m self, cx: &mut Ctx<'m, '_>, ids: &[u32], mut kv: Option<&mut KvCache>) -> Result<Var> {
        let past = kv.as_ref().map_or(0, |kv| kv.len());
        let mut x = cx.embed(ids, &self.weights[0])?;
        for l in 0..LAYERS {
            let n = ids.len();
            x = match kv.as_deref_mut() {
                Some(kv) => self.block(cx, l, x, past, n, Some(kv))?,
                None => cx.block(x, Box::new(move |cx, x| self.block(cx, l, x, 0, n, None)))?,
            };
        }
        if let Some(kv) = kv {
            kv.advance(ids.len());
        }
        cx.rms_norm(&x, &self.weights[1 + 9 * LAYERS], 1e-5)
    }

    fn loss(&self, b: &dyn Backend, hidden_loss: bool) -> f64 {
        let mut extra = HiddenLoss::default();
        let mut cx = Ctx::infer(b);
        if hidden_loss {
            cx = cx.observe(&mut extra);
        }
        let x = self.hidden(&mut cx, &IDS, None).unwrap();
        drop(cx);
        b.head_cross_entropy(None, &x.tensor, &self.weights[0].tensor, &TARGETS, 1.0).unwrap() + extra.loss
    }

    fn gradients(&self, b: &dyn Backend, recompute: bool, observer: Option<&mut dyn Observer>) -> Vec<Vec<f32>> {
        let shapes: Vec<Shape> = self.weights.iter().map(|w| w.tensor.shape()).collect();
        let mut grads = Grads::new(&shapes);
        let mut cx = Ctx::record(b).recompute(recompute);
        if let Some(observer) = observer {
            cx = cx.observe(observer);
        }
        let x = self.hidden(&mut cx, &IDS, None).unwrap();
        let mut dx = b.alloc(DType::F32, x.tensor.shape()).unwrap();
        let head = &self.weights[0];
        let into = HeadGrads { dx_td: &mut dx, dw_vd: Some(grads.get_mut(b, head.id).unwrap()) };
        b.head_cross_entropy(Some(into), &x.tensor, &head.tensor, &TARGETS, 1.0).unwrap();
        cx.backward(&x, dx, &mut grads).unwrap();
        (0..grads.len()).map(|i| b.download(&grads.take(b, ParamId(i)).unwrap()).unwrap()).collect()
    }
}

/// `0.5 * sum((x - 0.1)^2)` at one site: value in the forward, gradient put in during the backward.
#[derive(Default)]
struct HiddenLoss {
    loss: f64,
}

const HIDDEN: Site = Site { layer: 0, tap: Tap::BlockOut };

impl Observer for HiddenLoss {
    fn activation(&mut self, b: &dyn Backend, site: Site, x: &Tensor) -> Result<()> {
        if site == HIDDEN {
            self.loss = b.download(x)?.iter().map(|v| 0.5 * (f64::from(*v) - 0.1).powi(2)).sum();
        }
        Ok(())
    }
    fn gradient(&mut self, b: &dyn Backend, site: Site, x: &Tensor, dx: &mut Tensor) -> Result<()> {
        if site != HIDDEN {
            return Ok(());
        }
        let g: Vec<f32> = b.download(x)?.iter().map(|v| v - 0.1).collect();
        b.accumulate(dx, Accum::Add, &b.upload(&g, DType::F32, x.shape())?)
    }
}

/// Relative squared error of all gradients against central differences.
fn nmse_of_gradients(hidden_loss: bool, recompute: bool) -> f64 {
    let b = Reference;
    let mut model = Model::new(&b);
    let mut observer = HiddenLoss::default();
    let analytic = model.gradients(&b, recompute, if hidden_loss { Some(&mut observer) } else { None });
    let (mut error, mut norm) = (0.0, 0.0);
    for (p, grads) in analytic.iter().enumerate() {
        let original = b.download(&model.weights[p].tensor).unwrap();
        for (i, &g) in grads.iter().enumerate() {
            let mut at = |value: f32| {
                let mut values = original.clone();
                values[i] = value;
                model.weights[p].tensor = b.upload(&values, DType::F32, model.weights[p].tensor.shape()).unwrap();
                model.loss(&b, hidden_loss)
            };
            let (up, down) = (original[i] + 1e-2, original[i] - 1e-2);
            let numeric = (at(up) - at(down)) / f64::from(up - down);
            error += (numeric - f64::from(g)).powi(2);
            norm += numeric * numeric;
        }
        model.weights[p].tensor = b.upload(&original, DType::F32, model.weights[p].tensor.shape()).unwrap();
    }
    error / norm
}

#[test]
fn gradients_match_finite_differences() {
    for (hidden_loss, recompute) in [(false, false), (true, false), (true, true)] {
        let nmse = nmse_of_gradients(hidden_loss, recompute);
        assert!(nmse < 2e-6, "hidden loss {hidden_loss}, recompute {recompute}: NMSE {nmse:e}");
    }
}

#[test]
fn recompute_gives_the_same_bits() {
    let b = Reference;
    let model = Model::new(&b);
    assert_eq!(model.gradients(&b, false, None), model.gradients(&b, true, None));
}

#[test]
fn decoding_with_a_cache_equals_the_whole_forward() {
    let b = Reference;
    let model = Model::new(&b);
    // Five tokens as one sequence: not the packed length, so the model takes them as one.
    let ids = &IDS[..5];
    let whole = b.download(&model.hidden(&mut Ctx::infer(&b), ids, None).unwrap().tensor).unwrap();
    let mut kv = KvCache::new(&b, &[KV * HD; LAYERS], 5).unwrap();
    let mut cx = Ctx::infer(&b);
    let mut got = b.download(&model.hidden(&mut cx, &ids[..2], Some(&mut kv)).unwrap().tensor).unwrap();
    for i in 2..5 {
        got.extend(b.download(&model.hidden(&mut cx, &ids[i..=i], Some(&mut kv)).unwrap().tensor).unwrap());
    }
    assert_eq!(kv.len(), 5);
    for (a, b) in whole.iter().zip(&got) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    // A sixth token does not fit, and a run that records takes no cache: both are said, not crashed on.
    assert!(model.hidden(&mut cx, &ids[..1], Some(&mut kv)).is_err());
    kv.truncate(0);
    assert!(model.hidden(&mut Ctx::record(&b), &ids[..1], Some(&mut kv)).is_err());
}

#[test]
fn observers_see_every_site_once_and_its_gradient() {
    #[derive(Default)]
    struct Seen {
        forward: Vec<Site>,
        backward: Vec<Site>,
        taylor: f64,
    }
    impl Observer for Seen {
        fn activation(&mut self, _: &dyn Backend, site: Site, _: &Tensor) -> Result<()> {
            self.forward.push(site);
            Ok(())
        }
        fn gradient(&mut self, b: &dyn Backend, site: Site, x: &Tensor, dx: &mut Tensor) -> Result<()> {
            self.backward.push(site);
            self.taylor +=
                b.download(x)?.iter().zip(b.download(dx)?).map(|(x, d)| f64::from((x * d).abs())).sum::<f64>();
            Ok(())
        }
    }
    let b = Reference;
    let model = Model::new(&b);
    for recompute in [false, true] {
        let mut seen = Seen::default();
        model.gradients(&b, recompute, Some(&mut seen));
        assert_eq!(seen.forward.len(), 3 * LAYERS);
        seen.backward.reverse();
        assert_eq!(seen.forward, seen.backward);
        assert!(0.0 < seen.taylor);
    }
}

#[test]
fn a_run_without_a_tape_has_no_backward() {
    let b = Reference;
    let model = Model::new(&b);
    let mut cx = Ctx::infer(&b);
    let x = model.hidden(&mut cx, &IDS, None).unwrap();
    let dx = b.alloc(DType::F32, x.tensor.shape()).unwrap();
    let error = cx.backward(&x, dx, &mut Grads::new(&[])).unwrap_err();
    assert_eq!(error, paring_ops::Error::NotRecording { op: "backward" });
}

/// A tensor that is both terms of a sum, and one that is needed after it was rotated: gradients that share memory stay apart, and so does
/// what the tape still needs.
#[test]
fn shared_gradients_and_inputs_are_copied_before_they_are_written() {
    let b = Reference;
    let (ids, d) = ([0u32, 1], 2);
    let table = Weight { id: ParamId(0), tensor: b.upload(&noise(4, 1), DType::F32, shape(&[2, d])).unwrap() };
    let turns = b.upload(&[0.6, 0.8, -0.28, 0.96], DType::F32, shape(&[2, d])).unwrap();
    let positions: Arc<[u32]> = vec![0, 1].into();
    let dy = noise(4, 2);
    // f(x) = (x + x) + R x + relu2(x), R a rotation; its gradient at dy is 2 dy + R^T dy + 2 max(x, 0) dy.
    let mut grads = Grads::new(&[table.tensor.shape()]);
    let mut cx = Ctx::record(&b);
    let x = cx.embed(&ids, &table).unwrap();
    let before = b.download(&x.tensor).unwrap();
    let turned = cx.rope(x.clone(), &turns, &positions).unwrap();
    let double = cx.add(x.clone(), &x).unwrap();
    let square = cx.activation(Activation::Relu2, &x).unwrap();
    let sum = cx.add(double, &turned).unwrap();
    let y = cx.add(sum, &square).unwrap();
    assert_eq!(b.download(&x.tensor).unwrap(), before);
    cx.backward(&y, b.upload(&dy, DType::F32, shape(&[2, d])).unwrap(), &mut grads).unwrap();
    let mut back = b.upload(&dy, DType::F32, shape(&[2, d])).unwrap();
    b.rope(&mut back, &turns, &positions, true).unwrap();
    let back = b.download(&back).unwrap();
    for (i, got) in b.download(&grads.take(&b, ParamId(0)).unwrap()).unwrap().iter().enumerate() {
        let want = 2.0 * dy[i] + back[i] + 2.0 * before[i].max(0.0) * dy[i];
        assert!((got - want).abs() < 1e-6, "{i}: {got} against {want}");
    }
}
