//! A candidate made of views is the candidate that is really cut: to the bit without repair, to rounding with it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_calibrate::Gram;
use paring_cpu::Cpu;
use paring_exec::Ctx;
use paring_model::{Arch, Batch, Family, LayerArch, Model, Rope};
use paring_ops::Backend;
use paring_prune::{Anchor, Dims, Ridge, Scores, least_squares};
use paring_reference::Reference;
use paring_sampling::rng::Rng;
use paring_search::{Losses, Nested, Proxy, Ranking, RepairWidths, dims_of, repair};
use paring_surgery::{Bench, Cut, Memory, Rotated, Text, Weighting, Weights, basis, keep_energy, model};
use paring_tensor::DType;

fn arch(tied: bool) -> Arch {
    Arch {
        family: Family::Llama,
        vocab: 60,
        hidden: 24,
        head_dim: 4,
        rms_eps: 1e-5,
        tied,
        rope: Rope { theta: 1e4, llama3: None },
        max_positions: 64,
        layers: vec![LayerArch { heads: 6, kv_heads: 3, ffn: 40 }; 4],
    }
}

fn teacher(tied: bool) -> Memory {
    let rng = Rng::new(7);
    Memory::new(arch(tied), |spec| {
        let noise = |i: usize| rng.normal(spec.id.0 as u64, i as u64) as f32;
        Ok((0..spec.elements())
            .map(|i| if spec.shape.len() == 1 { 1.0 + 0.3 * noise(i) } else { 0.3 * noise(i) })
            .collect())
    })
    .unwrap()
}

fn ranking(d: &Dims, dropping: Option<Vec<usize>>) -> Ranking {
    let rng = Rng::new(11);
    let list = |stream: u64, n: usize| (0..n).map(|i| rng.normal(stream, i as u64).abs()).collect::<Vec<f64>>();
    let layers = |stream: u64, n: usize| (0..d.layers).map(|l| list(stream + l as u64, n)).collect();
    let scores = Scores {
        hidden: list(1, d.hidden),
        ffn: layers(10, d.ffn),
        heads: layers(20, d.heads),
        kv_groups: layers(30, d.kv_groups),
        block_influence: list(2, d.layers),
    };
    Ranking::new(d, scores, dropping).unwrap()
}

fn windows() -> Vec<Vec<u32>> {
    let rng = Rng::new(5);
    (0..3).map(|w| (0..33).map(|i| (rng.uniform(w, i) * 60.0) as u32).collect()).collect()
}

fn students(d: &Dims) -> Vec<Dims> {
    vec![
        *d,
        Dims { hidden: 18, ..*d },
        Dims { ffn: 23, ..*d },
        Dims { layers: 2, ..*d },
        Dims { heads: 3, ..*d },
        Dims { heads: 4, kv_groups: 2, ..*d },
        Dims { heads: 1, kv_groups: 1, ..*d },
        Dims { layers: 3, hidden: 12, ffn: 9, heads: 2, kv_groups: 2, ..*d },
    ]
}

fn logits(backend: &dyn Backend, m: &Model, window: &[u32]) -> Vec<f32> {
    let x = m.hidden(&mut Ctx::infer(backend), &Batch::pack([window]), None).unwrap().tensor;
    backend.download(&m.logits(backend, &x).unwrap()).unwrap()
}

/// The largest difference, in units of the largest logit.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn a_view_is_the_student_that_is_really_cut() {
    let cpu = Cpu::new(Some(2)).unwrap();
    for (backend, tied) in [(&cpu as &dyn Backend, true), (&cpu, false), (&Reference, true)] {
        for dtype in [DType::F32, DType::BF16] {
            let weights = teacher(tied);
            let d = dims_of(weights.arch()).unwrap();
            for dropping in [None, Some(vec![2, 0, 1, 3])] {
                let ranking = ranking(&d, dropping);
                let mut nested = Nested::new(&weights, ranking.clone(), backend, dtype, 40).unwrap();
                for student in students(&d) {
                    let plan = ranking.plan(&student).unwrap();
                    assert_eq!(ranking.plan(&student).unwrap().student().unwrap(), student);
                    let cut = model(&Cut::new(&weights, &plan), backend, dtype).unwrap();
                    let view = nested.model(&student).unwrap();
                    let window = &windows()[0];
                    // Sorted sums have another order, so this is to rounding; the next test is to the bit.
                    let tolerance = if dtype == DType::F32 { 1e-5 } else { 3e-2 };
                    let off = difference(&logits(backend, &view, window), &logits(backend, &cut, window));
                    assert!(off < tolerance, "{student:?} in {dtype} on {}: {off}", backend.name());
                }
            }
        }
    }
}

#[test]
fn views_are_copies_to_the_bit() {
    // The same sorted tensors, copied without gaps.
    let backend = Cpu::new(Some(2)).unwrap();
    let weights = teacher(false);
    let d = dims_of(weights.arch()).unwrap();
    let mut nested = Nested::new(&weights, ranking(&d, None), &backend, DType::BF16, 40).unwrap();
    for student in students(&d) {
        let view = nested.model(&student).unwrap();
        let copies = (0..view.specs().len())
            .map(|i| {
                let t = &view.weight(paring_exec::ParamId(i)).tensor;
                let values = paring_tensor::HostBuffer::gather_f32(t).unwrap();
                backend.upload(&values, t.dtype(), t.shape()).unwrap()
            })
            .collect();
        let copy = Model::from_tensors(view.arch().clone(), &backend, copies).unwrap();
        for window in windows() {
            assert_eq!(logits(&backend, &view, &window), logits(&backend, &copy, &window), "{student:?}");
            // Few rows go another way.
            assert_eq!(logits(&backend, &view, &window[..5]), logits(&backend, &copy, &window[..5]), "{student:?}");
        }
    }
}

#[test]
fn repaired_views_are_the_students_that_least_squares_makes() {
    let backend = Cpu::new(Some(2)).unwrap();
    let weights = teacher(true);
    let d = dims_of(weights.arch()).unwrap();
    let ranking = ranking(&d, None);
    let mut nested = Nested::new(&weights, ranking.clone(), &backend, DType::F32, 40).unwrap();
    let all = windows();
    let whole = model(&weights, &backend, DType::F32).unwrap();
    let mut gram = Gram::new(&backend, weights.arch(), 0..4).unwrap();
    for window in &all {
        whole.hidden(&mut Ctx::infer(&backend).observe(&mut gram), &Batch::pack([window.as_slice()]), None).unwrap();
    }
    // Two layers at a time: what is gathered in pieces is the same.
    let widths = RepairWidths { ffn: vec![9, 23, 40], strength: 0.01, gram_bytes: 2 * 4 * 40 * 40, threads: 2 };
    let mut seen = Vec::new();
    assert!(
        repair(&mut nested, &all, 2, &widths, &mut |l| {
            seen.push(l);
            true
        })
        .unwrap()
    );
    assert_eq!(seen.last(), Some(&4));
    for student in [Dims { ffn: 23, ..d }, Dims { ffn: 9, hidden: 18, layers: 3, ..d }] {
        let plan = ranking.plan(&student).unwrap();
        let mut cut = Cut::new(&weights, &plan);
        let mut taken = Cut::new(&weights, &plan);
        for (l, layer) in plan.layers().iter().enumerate() {
            let name = format!("model.layers.{l}.mlp.down_proj.weight");
            let spec = paring_model::params(cut.arch()).into_iter().find(|s| s.name == name).unwrap();
            let of = paring_model::params(weights.arch()).into_iter();
            let of = of
                .into_iter()
                .find(|s| s.name == format!("model.layers.{}.mlp.down_proj.weight", layer.layer))
                .unwrap();
            let g = gram.layer(&backend, layer.layer).unwrap().unwrap();
            let mean = |list: &mut dyn Iterator<Item = usize>, n: usize| {
                list.map(|i| f64::from(g[i * 40 + i])).sum::<f64>() / n as f64
            };
            let ratio = mean(&mut (0..40), 40) / mean(&mut layer.ffn.iter().copied(), layer.ffn.len());
            let ridge = Ridge { strength: 0.01 * ratio, anchor: Anchor::Zero };
            let w = least_squares(&g, 40, &weights.read(&of).unwrap(), &layer.ffn, &ridge).unwrap();
            let rows: Vec<f32> =
                plan.hidden().iter().flat_map(|&r| w[r * student.ffn..(r + 1) * student.ffn].to_vec()).collect();
            cut.set(&spec, rows).unwrap();
            taken.set(&spec, nested.repaired(layer.layer, &student).unwrap().unwrap()).unwrap();
        }
        // The norms' gains, from their definition: the mean square of what is kept of the unit-RMS stream.
        for spec in paring_model::params(&cut.arch().clone()).iter().filter(|s| s.shape.len() == 1) {
            let at = spec.layer.map(|l| plan.layers()[l].layer);
            let gain = gain_by_hand(&whole, &backend, &all, plan.hidden(), spec.name.contains("post_attention"), at);
            let got = nested.gain(spec, at, student.hidden);
            assert!((got / gain - 1.0).abs() < 1e-4, "{}: {got} and not {gain}", spec.name);
            let values: Vec<f32> = cut.read(spec).unwrap().into_iter().map(|g| g * gain as f32).collect();
            cut.set(spec, values.clone()).unwrap();
            taken.set(spec, values).unwrap();
        }
        let (cut, taken) = (model(&cut, &backend, DType::F32).unwrap(), model(&taken, &backend, DType::F32).unwrap());
        let view = nested.model(&student).unwrap();
        let want = logits(&backend, &cut, &all[1]);
        for (what, m) in [("view", &view), ("taken", &taken)] {
            let off = difference(&logits(&backend, m, &all[1]), &want);
            assert!(off < 2e-4, "{what} of {student:?}: {off}");
        }
        let plain = model(&Cut::new(&weights, &plan), &backend, DType::F32).unwrap();
        assert!(1e-2 < difference(&logits(&backend, &plain, &all[1]), &want), "the repair did nothing");
    }
    assert_eq!(nested.repaired(0, &Dims { ffn: 7, ..d }).unwrap(), None);
    assert!(!repair(&mut nested, &all, 2, &widths, &mut |_| false).unwrap());
    assert!(repair(&mut nested, &[], 2, &widths, &mut |_| true).is_err());
}

/// The root of the mean square of the kept channels of `x / rms(x)` before one norm: the attention's or the MLP's of a layer, or the final.
fn gain_by_hand(
    m: &Model,
    backend: &dyn Backend,
    windows: &[Vec<u32>],
    kept: &[usize],
    mlp: bool,
    layer: Option<usize>,
) -> f64 {
    if kept.len() == m.arch().hidden {
        return 1.0;
    }
    struct Stream {
        want: (usize, paring_exec::Tap),
        seen: Vec<f32>,
    }
    impl paring_exec::Observer for Stream {
        fn activation(
            &mut self,
            b: &dyn Backend,
            s: paring_exec::Site,
            x: &paring_tensor::Tensor,
        ) -> paring_ops::Result<()> {
            if (s.layer, s.tap) == self.want {
                self.seen.extend(b.download(x)?);
            }
            Ok(())
        }
    }
    use paring_exec::Tap::{AttnNorm, FinalNorm, MlpNorm};
    let tap = if layer.is_none() {
        FinalNorm
    } else if mlp {
        MlpNorm
    } else {
        AttnNorm
    };
    let mut stream = Stream { want: (layer.unwrap_or(m.arch().layers.len()), tap), seen: Vec::new() };
    for window in windows {
        m.hidden(&mut Ctx::infer(backend).observe(&mut stream), &Batch::pack([window.as_slice()]), None).unwrap();
    }
    // What a norm returns over its gain is the unit-RMS stream.
    let name = match (layer, mlp) {
        (None, _) => "model.norm.weight".to_string(),
        (Some(l), false) => format!("model.layers.{l}.input_layernorm.weight"),
        (Some(l), true) => format!("model.layers.{l}.post_attention_layernorm.weight"),
    };
    let id = m.specs().iter().find(|s| s.name == name).unwrap().id;
    let gains = backend.download(&m.weight(id).tensor).unwrap();
    let rows: Vec<&[f32]> = stream.seen.chunks(gains.len()).collect();
    let square = |row: &&[f32]| kept.iter().map(|&c| f64::from(row[c] / gains[c]).powi(2)).sum::<f64>();
    (rows.iter().map(square).sum::<f64>() / (rows.len() * kept.len()) as f64).sqrt()
}

#[test]
fn a_rotated_teacher_is_sorted_by_direction() {
    let backend = Cpu::new(Some(2)).unwrap();
    let (weights, all) = (teacher(true), windows());
    let slices: Vec<&[u32]> = all.iter().map(Vec::as_slice).collect();
    let text = Text::new(&slices, 2);
    let bench = Bench { backend: &backend, dtype: DType::F32, threads: 2, text: &text };
    let basis = basis(&weights, &bench, Weighting::Energy, &mut |_| Ok(())).unwrap();
    let rotated = Rotated::new(&weights, &basis, &backend).unwrap();
    let d = dims_of(rotated.arch()).unwrap();
    let scores = Scores {
        hidden: basis.values().to_vec(),
        ffn: vec![(0..40).map(f64::from).collect(); 4],
        heads: vec![vec![1.0; 6]; 4],
        kv_groups: vec![vec![1.0; 3]; 4],
        block_influence: vec![1.0; 4],
    };
    let ranking = Ranking::new(&d, scores, None).unwrap();
    assert_eq!(ranking.hidden(), (0..24).collect::<Vec<_>>());
    assert!(ranking.mass(&Dims { hidden: 12, ..d }).hidden > 0.5, "half of the directions, and the better half");
    let mut nested = Nested::new(&rotated, ranking.clone(), &backend, DType::F32, 40).unwrap();
    let widths = RepairWidths { ffn: Vec::new(), strength: 0.01, gram_bytes: 1 << 20, threads: 1 };
    assert!(repair(&mut nested, &all, 2, &widths, &mut |_| true).unwrap());
    // Of the teacher's width nothing is lost, whether its head counts as tied or not.
    let whole = logits(&backend, &model(&weights, &backend, DType::F32).unwrap(), &all[0]);
    for tied in [true, false] {
        let view = nested.model(&Dims { tied, ..d }).unwrap();
        assert!(!view.arch().tied);
        let off = difference(&logits(&backend, &view, &all[0]), &whole);
        assert!(off < 1e-4, "tied {tied}: {off}");
    }
    // Narrower, it is the cut of the rotated teacher whose norms keep their energy.
    let narrow = Dims { hidden: 18, ..d };
    let plan = ranking.plan(&narrow).unwrap();
    let mut cut = Cut::new(&rotated, &plan);
    keep_energy(&mut cut, &bench, &mut |_| Ok(())).unwrap();
    let want = logits(&backend, &model(&cut, &backend, DType::F32).unwrap(), &all[0]);
    let off = difference(&logits(&backend, &nested.model(&narrow).unwrap(), &all[0]), &want);
    assert!(off < 1e-4, "{off}");
    assert!(1e-2 < difference(&want, &whole), "the cut did nothing");
}

#[test]
fn losses_are_those_of_the_model_and_of_the_teacher() {
    let backend = Cpu::new(Some(2)).unwrap();
    let weights = teacher(true);
    let d = dims_of(weights.arch()).unwrap();
    let all = windows();
    let slices: Vec<&[u32]> = all.iter().map(Vec::as_slice).collect();
    let student = Dims { layers: 3, hidden: 18, ..d };
    for proxy in [Proxy::Nll, Proxy::Kl] {
        let nested = Nested::new(&weights, ranking(&d, None), &backend, DType::F32, 40).unwrap();
        let mut losses = Losses::new(nested, all.clone(), proxy).unwrap();
        assert_eq!((losses.windows_of(1), losses.windows_of(34), losses.windows_of(1000)), (1, 2, 3));
        let got = losses.loss(&student, 3).unwrap();
        let (t, s) = (losses.nested().model(&d).unwrap(), losses.nested().model(&student).unwrap());
        let agreement = paring_eval::compare(&backend, &t, &s, &slices, 1, &mut |_| {}).unwrap();
        let want = if proxy == Proxy::Nll { agreement.student_nll } else { agreement.kl };
        assert!((got - want).abs() < 1e-9 * want, "{got} and not {want}");
        if proxy == Proxy::Kl {
            assert!(losses.loss(&d, 2).unwrap().abs() < 1e-9);
        }
    }
    let nested = Nested::new(&weights, ranking(&d, None), &backend, DType::F32, 40).unwrap();
    assert!(Losses::new(nested, vec![vec![1]], Proxy::Nll).unwrap_err().to_string().contains("no windows"));
}

#[test]
fn rankings_that_are_none_are_refused() {
    let d = dims_of(&arch(true)).unwrap();
    let good = ranking(&d, None);
    assert_eq!(good.target(&d), paring_prune::Target::default());
    let scores = Scores {
        hidden: vec![1.0; 24],
        ffn: vec![vec![1.0; 40]; 4],
        heads: vec![vec![1.0; 6]; 4],
        kv_groups: vec![vec![1.0; 3]; 4],
        block_influence: vec![1.0; 4],
    };
    for bad in [vec![0, 1, 2], vec![0, 1, 2, 2], vec![0, 1, 2, 4]] {
        let error = Ranking::new(&d, scores.clone(), Some(bad)).unwrap_err().to_string();
        assert!(error.contains("each of 4 layers once"), "{error}");
    }
    let mut nan = scores;
    nan.hidden[3] = f64::NAN;
    assert!(Ranking::new(&d, nan, None).is_err());
}
