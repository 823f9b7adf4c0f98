//! Multiple choice: on a model whose likelihoods are known beforehand, and against whole logits in f64.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{backends, config, cpu, logits, model, random_ids, random_values};
use paring_eval::{Choice, Criterion, LmLoss, Question, QuestionError, Task, TaskScore, likelihood};
use paring_exec::{Ctx, Observer, Site, Tap};
use paring_model::{Arch, Batch, Model};
use paring_ops::Backend;
use paring_tensor::{DType, Tensor};

fn choice(context: &[u32], rest: &[u32], characters: usize) -> Choice {
    Choice { ids: [context, rest].concat(), context: context.len(), characters }
}

fn task(questions: Vec<Question>) -> Task {
    Task::new(questions).unwrap()
}

fn evaluate(backend: &dyn Backend, model: &Model, task: &Task) -> TaskScore {
    task.evaluate(backend, model, &mut |_| true).unwrap().unwrap()
}

/// A model that looks at the last token only and whose probabilities are known: every block adds nothing, the embedding of token `a` is the
/// unit vector `a`, and the head has the logit of `b` after `a` at `[b, a]`.
fn bigram(backend: &dyn Backend, logit: impl Fn(usize, usize) -> f32) -> (Arch, Model) {
    let mut config = config(false);
    config["vocab_size"] = 8.into();
    config["rms_norm_eps"] = 1e-12.into();
    let arch = Arch::from_config(&config).unwrap();
    let mut values = random_values(&arch, 1);
    for (p, v) in &mut values {
        let columns = *p.shape.last().unwrap();
        match p.name.as_str() {
            "model.embed_tokens.weight" => {
                v.fill(0.0);
                (0..8).for_each(|a| v[a * columns + a] = 1.0);
            }
            "lm_head.weight" => {
                v.fill(0.0);
                // The norm makes the unit vector of 64 channels sqrt(64) long.
                (0..64).for_each(|i| v[(i / 8) * columns + i % 8] = logit(i % 8, i / 8) / 8.0);
            }
            "model.norm.weight" => v.fill(1.0),
            name if name.contains("o_proj") || name.contains("down_proj") => v.fill(0.0),
            _ => {}
        }
    }
    let model = model(backend, &arch, &values, DType::F32);
    (arch, model)
}

#[test]
fn answers_that_can_be_worked_out_by_hand() {
    // After token a: token a + 1 has odds of 4, token a + 2 odds of 2, the six others odds of 1 each, in 12.
    let odds = |a: usize, b: usize| match (8 + b - a) % 8 {
        1 => 4.0f32,
        2 => 2.0,
        _ => 1.0,
    };
    for (name, backend) in backends() {
        let backend = &*backend;
        let (arch, model) = bigram(backend, |a, b| odds(a, b).ln());
        let question = |choices: Vec<Choice>, gold| Question::new(&arch, choices, gold).unwrap();
        let ln = |x: f64| x.ln();
        // One token each: 4/12 against 2/12 against 1/12. All three are read off one run of the context.
        let one = question(vec![choice(&[5, 0], &[2], 1), choice(&[5, 0], &[1], 1), choice(&[5, 0], &[7], 1)], 1);
        // Two tokens of 4/12 each (1/9) against one of 1/12: the sum prefers the former, and so does every length.
        let two = question(vec![choice(&[3], &[4, 5], 2), choice(&[3], &[0], 1)], 0);
        // ln(1/9) = -2.197 against ln(1/6) = -1.792: the sum takes the second; a character is worth -1.099 against -1.792: the length the first.
        let three = question(vec![choice(&[3], &[4, 5], 2), choice(&[3], &[5], 1)], 0);
        // Two contexts, one continuation (Winogrande's way): 4/12 after 2, 1/12 after 6.
        let four = question(vec![choice(&[1, 6], &[3], 1), choice(&[1, 2], &[3], 1)], 0);
        assert_eq!(one_sequence(&one), 1);
        let all = task(vec![one, two, three, four]);
        let got = evaluate(backend, &model, &all);
        assert_eq!((got.accuracy, got.accuracy_norm, got.n), (0.5, 0.75, 4), "{name}");
        let (a, b) = ((0.25f64 / 3.0).sqrt(), (0.1875f64 / 3.0).sqrt());
        assert!((got.stderr.unwrap() - a).abs() < 1e-15 && (got.stderr_norm.unwrap() - b).abs() < 1e-15, "{got:?}");
        let want = -(ln(4.0 / 12.0) + 2.0 * ln(4.0 / 12.0) + 2.0 * ln(4.0 / 12.0) + ln(1.0 / 12.0)) / 4.0;
        assert!((got.gold_nll - want).abs() < 1e-5, "{name}: {} and {want}", got.gold_nll);

        // Alike: the first wins, as in NumPy's argmax.
        let same = |gold| task(vec![question(vec![choice(&[0], &[4], 2), choice(&[0], &[5], 2)], gold)]);
        let first = evaluate(backend, &model, &same(0));
        assert_eq!((first.accuracy, first.accuracy_norm, first.stderr), (1.0, 1.0, None), "{name}");
        assert_eq!(evaluate(backend, &model, &same(1)).accuracy, 0.0, "{name}");
    }
}

/// Sequences that run for a question.
fn one_sequence(q: &Question) -> usize {
    task(vec![q.clone()]).sequences(0).len()
}

/// Questions with contexts short and long, the choices with tokens in common and of several lengths.
fn questions(arch: &Arch) -> Vec<(Vec<Choice>, usize)> {
    let of = |i: usize, context: usize| {
        let shared = random_ids(arch.vocab, context, 50 + i as u64);
        let first = random_ids(arch.vocab, 2, 70 + i as u64);
        let rest = |c: usize| random_ids(arch.vocab, 1 + (i + c) % 5, (100 + 10 * i + c) as u64);
        let choices = (0..4).map(|c| {
            let rest = if i.is_multiple_of(2) { [&first[..], &rest(c)].concat() } else { rest(c) };
            choice(&shared, &rest, 1 + (7 * c + i) % 11)
        });
        (choices.collect(), i % 4)
    };
    [1, 100, 5, 3, 90, 80, 2, 64, 31, 2, 110, 40, 17].iter().enumerate().map(|(i, &n)| of(i, n)).collect()
}

/// The three scores of a question, from whole logits.
fn direct(backend: &dyn Backend, model: &Model, choices: &[Choice], gold: usize) -> [f64; 3] {
    let vocab = model.arch().vocab;
    let nll: Vec<f64> = choices
        .iter()
        .map(|c| {
            let logits = logits(backend, model, &Batch::pack([c.ids.as_slice()]));
            let of = |i: usize| {
                let row: Vec<f64> = logits[(i - 1) * vocab..i * vocab].iter().map(|&l| l.into()).collect();
                row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[c.ids[i] as usize]
            };
            (c.context..c.ids.len()).map(of).sum()
        })
        .collect();
    let best = |f: &dyn Fn(usize) -> f64| (0..nll.len()).min_by(|&a, &b| f(a).total_cmp(&f(b))).unwrap();
    let right = |i| f64::from(u8::from(i == gold));
    [right(best(&|i| nll[i])), right(best(&|i| nll[i] / choices[i].characters as f64)), nll[gold]]
}

#[test]
fn scores_are_those_of_the_logits_however_questions_run() {
    let arch = Arch::from_config(&config(true)).unwrap();
    let all = questions(&arch);
    let asked = task(all.iter().map(|(c, gold)| Question::new(&arch, c.clone(), *gold).unwrap()).collect());
    for (name, backend) in backends() {
        let backend = &*backend;
        let model = model(backend, &arch, &random_values(&arch, 1), DType::F32);
        let want: Vec<[f64; 3]> = all.iter().map(|(c, gold)| direct(backend, &model, c, *gold)).collect();
        let mean = |i: usize| want.iter().map(|w| w[i]).sum::<f64>() / want.len() as f64;
        let mut done = Vec::new();
        let got = asked.evaluate(backend, &model, &mut |n| {
            done.push(n);
            true
        });
        let got = got.unwrap().unwrap();
        assert!(done.is_sorted() && done.last() == Some(&all.len()), "{done:?}");
        assert_eq!((got.accuracy, got.accuracy_norm), (mean(0), mean(1)), "{name}");
        assert!(((got.gold_nll - mean(2)) / mean(2)).abs() < 1e-6, "{name}: {} and {}", got.gold_nll, mean(2));
        // One by one, as a criterion.
        for (unit, want) in want.iter().enumerate() {
            let batch = Batch::pack(asked.sequences(unit));
            let x = model.hidden(&mut Ctx::infer(backend), &batch, None).unwrap().tensor;
            let got = asked.measure(backend, &model, unit, &x).unwrap();
            assert_eq!(got[..2], want[..2], "{name}, question {unit}");
            assert!(((got[2] - want[2]) / want[2]).abs() < 1e-5, "{name}, question {unit}: {} and {}", got[2], want[2]);
        }
        assert_eq!(asked.evaluate(backend, &model, &mut |n| n < 3).unwrap(), None, "{name}: it was told to stop");
    }
    // Threads change no bit.
    let run = |threads| {
        let backend = cpu(threads);
        let model = model(&backend, &arch, &random_values(&arch, 1), DType::F32);
        evaluate(&backend, &model, &asked)
    };
    let one = run(1);
    assert!(run(2) == one && run(3) == one);
}

#[test]
fn choices_of_one_token_take_one_run_and_beginnings_of_others_none() {
    /// Tokens that ran through the first layer.
    #[derive(Default)]
    struct Tokens(usize);
    impl Observer for Tokens {
        fn activation(&mut self, _: &dyn Backend, site: Site, x: &Tensor) -> paring_ops::Result<()> {
            self.0 += if site == (Site { layer: 0, tap: Tap::BlockIn }) { x.n_rows() } else { 0 };
            Ok(())
        }
    }
    let arch = Arch::from_config(&config(true)).unwrap();
    let context = random_ids(arch.vocab, 100, 1);
    // One token each: one run of the context, whose last row predicts them all.
    let letters = Question::new(&arch, (0..4).map(|c| choice(&context, &[c], 1)).collect(), 0).unwrap();
    let sequences = |q: &Question| task(vec![q.clone()]).sequences(0).iter().map(|s| s.len()).collect::<Vec<_>>();
    assert_eq!(sequences(&letters), [100]);
    // The second is the beginning of the third.
    let rest = [&[1, 2, 3][..], &[4, 5], &[4, 5, 6, 7], &[1, 2, 9]];
    let mixed = Question::new(&arch, rest.iter().map(|r| choice(&context, r, 1)).collect(), 0).unwrap();
    assert_eq!(sequences(&mixed), [102, 103]);
    let backend = cpu(1);
    let model = model(&backend, &arch, &random_values(&arch, 1), DType::F32);
    let mut tokens = Tokens::default();
    let batch = Batch::pack(task(vec![mixed]).sequences(0));
    model.hidden(&mut Ctx::infer(&backend).observe(&mut tokens), &batch, None).unwrap();
    assert_eq!(tokens.0, 205);
}

#[test]
fn the_loss_as_a_criterion_is_the_likelihood() {
    let arch = Arch::from_config(&config(true)).unwrap();
    let backend = cpu(2);
    let model = model(&backend, &arch, &random_values(&arch, 1), DType::F32);
    let windows: Vec<Vec<u32>> = [30, 2, 90].iter().map(|&n| random_ids(arch.vocab, n, n as u64)).collect();
    let slices: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    let loss = LmLoss::new(&slices);
    let mut sum = 0.0;
    for unit in 0..3 {
        let batch = Batch::pack(loss.sequences(unit));
        let x = model.hidden(&mut Ctx::infer(&backend), &batch, None).unwrap().tensor;
        sum += loss.measure(&backend, &model, unit, &x).unwrap()[0];
    }
    let want = likelihood(&backend, &model, &slices, 1, &mut |_| {}).unwrap();
    assert_eq!((loss.units(), loss.predicted()), (3, want.tokens));
    assert!((loss.scores(&[sum])[0] - want.nll).abs() < 1e-12);
    assert!(loss.better(&[1.0], &[2.0]) && !loss.better(&[2.0], &[1.0]) && !loss.better(&[1.0], &[1.0]));
    // A task prefers the higher accuracy, then the likelier right choices.
    let task = task(vec![Question::new(&arch, vec![choice(&[1], &[2], 1)], 0).unwrap()]);
    assert!(task.better(&[0.6, 0.0, 9.0], &[0.5, 1.0, 1.0]) && !task.better(&[0.5, 1.0, 1.0], &[0.6, 0.0, 9.0]));
    assert!(task.better(&[0.5, 0.0, 1.0], &[0.5, 1.0, 2.0]) && !task.better(&[0.5, 0.0, 1.0], &[0.5, 0.0, 1.0]));
}

#[test]
fn questions_that_cannot_be_asked() {
    let arch = Arch::from_config(&config(true)).unwrap();
    let good = || choice(&[1, 2], &[3], 1);
    let bad = |choices: Vec<Choice>, gold, want: QuestionError, says: &str| {
        let error = Question::new(&arch, choices, gold).unwrap_err();
        assert_eq!(error, want);
        assert!(error.to_string().contains(says), "{error}");
    };
    bad(vec![], 0, QuestionError::NoChoices, "no choices");
    bad(vec![good(), good()], 2, QuestionError::Gold { got: 2, choices: 2 }, "gold is 2 of 2 choices, expected 0 to 1");
    bad(vec![good(), choice(&[], &[3], 1)], 0, QuestionError::NoContext { choice: 1 }, "no token before it");
    bad(vec![choice(&[1], &[], 1)], 0, QuestionError::EmptyChoice { choice: 0 }, "is empty");
    bad(vec![choice(&[1], &[2], 0)], 0, QuestionError::EmptyChoice { choice: 0 }, "is empty");
    let long = QuestionError::TooLong { choice: 1, tokens: 129, max: 128 };
    bad(vec![good(), choice(&[1; 128], &[2], 1)], 0, long, "129 tokens, but the model has only 128 positions");
    let id = QuestionError::Token { choice: 0, id: 301, vocab: 301 };
    bad(vec![choice(&[1], &[301], 1)], 0, id, "token id 301, expected below 301");
    assert!(Question::new(&arch, vec![choice(&[1; 127], &[2], 1)], 0).is_ok());
    assert!(Task::new(vec![]).is_none());
}

#[test]
fn a_broken_weight_is_no_answer() {
    let arch = Arch::from_config(&config(true)).unwrap();
    let backend = cpu(1);
    let mut values = random_values(&arch, 1);
    values[3].1[0] = f32::NAN;
    let model = model(&backend, &arch, &values, DType::F32);
    let asked = task(vec![Question::new(&arch, vec![choice(&[1, 2], &[3], 1)], 0).unwrap()]);
    let error = asked.evaluate(&backend, &model, &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("the likelihood of a choice is NaN"), "{error}");
}
