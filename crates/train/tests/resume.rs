//! A run that was stopped and goes on is the run that was not stopped, bit for bit; and what happens to checkpoints that are damaged,
//! too many, or somebody else's.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{Log, STEPS, arch, cpu, identity, lively, names, state, step_dir, teacher, train, train_config, trainer};
use paring_tensor::DType;
use paring_train::{
    Error, FORMAT_VERSION, Objective, Outcome, Resume, StepReport, TrainConfig, Trainer, load_latest, save,
};
use serde_json::{Value, json};
use std::path::Path;

/// Everything about a report but the run it is from.
fn key(r: &StepReport) -> (u64, u64, u64, u32, u64) {
    (r.step, r.loss.to_bits(), r.grad_norm.to_bits(), r.lr.to_bits(), r.tokens)
}

fn keys(reports: &[StepReport]) -> Vec<(u64, u64, u64, u32, u64)> {
    reports.iter().map(key).collect()
}

/// Goes on from `dir` in a trainer that began with other weights, so that nothing can be right by accident.
fn resumed<'b>(backend: &'b paring_cpu::Cpu, config: &TrainConfig, dir: &Path) -> (Trainer<'b>, Resume) {
    let mut trainer = trainer(backend, config.clone(), 99);
    let resume = load_latest(&mut trainer, dir, &identity()).unwrap();
    (trainer, resume)
}

#[test]
fn stopping_after_any_step_changes_nothing() {
    let backend = cpu(2);
    let teacher = teacher(&backend);
    for objective in [Objective::ForwardKl(&teacher), Objective::NextToken] {
        let types = [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::BF16, DType::BF16)];
        for (dtype, moments) in types {
            let config = TrainConfig { moments, ..train_config(dtype) };
            let mut straight = trainer(&backend, config.clone(), 1);
            let mut log = Log::default();
            assert_eq!(train(&mut straight, objective, None, 1, &mut log), Outcome::Finished);
            let (want, want_keys) = (state(&straight), keys(&log.reports));
            assert_eq!(want_keys.len(), STEPS as usize);

            for stop in 1..STEPS {
                let tmp = tempfile::tempdir().unwrap();
                let mut first = Log { stop_after: Some(stop), ..Log::default() };
                let mut trainer = trainer(&backend, config.clone(), 1);
                assert_eq!(train(&mut trainer, objective, Some(tmp.path()), 100, &mut first), Outcome::Stopped);
                let (mut trainer, resume) = resumed(&backend, &config, tmp.path());
                let note = json!({"lines": stop});
                assert_eq!(resume, Resume::At { step: stop, note, skipped: vec![] });
                let mut rest = Log::default();
                assert_eq!(train(&mut trainer, objective, Some(tmp.path()), 100, &mut rest), Outcome::Finished);
                assert_eq!(keys(&[first.reports, rest.reports].concat()), want_keys, "{dtype}, stopped after {stop}");
                assert!(state(&trainer) == want, "{dtype}, stopped after {stop}: the state differs");
                assert_eq!(trainer.token_count(), straight.token_count());
            }

            // Stopped after every single step.
            let tmp = tempfile::tempdir().unwrap();
            let mut all = Vec::new();
            for stop in 1..=STEPS {
                let (mut trainer, resume) = if stop == 1 {
                    (trainer(&backend, config.clone(), 1), Resume::Fresh)
                } else {
                    resumed(&backend, &config, tmp.path())
                };
                assert_eq!(matches!(resume, Resume::Fresh), stop == 1);
                let mut log = Log { stop_after: Some(stop), ..Log::default() };
                let outcome = train(&mut trainer, objective, Some(tmp.path()), 100, &mut log);
                assert_eq!(outcome, if stop == STEPS { Outcome::Finished } else { Outcome::Stopped });
                all.extend(log.reports);
            }
            assert_eq!(keys(&all), want_keys, "{dtype}, a chain");
            let (trainer, _) = resumed(&backend, &config, tmp.path());
            assert!(trainer.step_count() == STEPS && state(&trainer) == want, "{dtype}, a chain");
        }
    }
}

#[test]
fn a_model_with_bf16_weights_computes_the_same_after_a_resume() {
    // The straight run keeps its bf16 copy; the resumed one rounds it from the masters.
    let backend = cpu(1);
    let tmp = tempfile::tempdir().unwrap();
    let config = train_config(DType::BF16);
    let mut straight = trainer(&backend, config.clone(), 1);
    let mut log = Log { stop_after: Some(3), ..Log::default() };
    train(&mut straight, Objective::NextToken, Some(tmp.path()), 100, &mut log);
    let (resumed, _) = resumed(&backend, &config, tmp.path());
    for spec in straight.model().specs() {
        use paring_ops::Backend;
        let of = |t: &Trainer<'_>| backend.download(&t.model().weight(spec.id).tensor).unwrap();
        assert_eq!(of(&straight), of(&resumed), "{}", spec.name);
    }
}

/// A directory with the checkpoints of steps 4 and 5 of a whole run.
fn run_with_checkpoints(config: &TrainConfig) -> (tempfile::TempDir, Vec<u8>) {
    let tmp = tempfile::tempdir().unwrap();
    let backend = cpu(1);
    let mut trainer = trainer(&backend, config.clone(), 1);
    train(&mut trainer, Objective::NextToken, Some(tmp.path()), 1, &mut Log::default());
    (tmp, state(&trainer))
}

#[test]
fn the_two_newest_checkpoints_stay() {
    let backend = cpu(1);
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("a/b");
    let config = train_config(DType::F32);
    let mut trainer = trainer(&backend, config.clone(), 1);
    assert_eq!(load_latest(&mut trainer, &dir, &identity()).unwrap(), Resume::Fresh, "no directory is no checkpoint");
    for stop in 1..STEPS {
        let mut log = Log { stop_after: Some(stop), ..Log::default() };
        train(&mut trainer, Objective::NextToken, Some(&dir), 100, &mut log);
        let want: Vec<String> = [stop - 1, stop].iter().filter(|s| 0 < **s).map(|s| format!("step-{s:08}")).collect();
        assert_eq!(names(&dir), want);
    }

    // What the policy says: every two steps, and not after the last one, whose model is written as a model.
    let (tmp, _) = {
        let tmp = tempfile::tempdir().unwrap();
        let mut trainer = common::trainer(&backend, config.clone(), 1);
        train(&mut trainer, Objective::NextToken, Some(tmp.path()), 2, &mut Log::default());
        (tmp, ())
    };
    assert_eq!(names(tmp.path()), ["step-00000002", "step-00000004"]);
    // And what the monitor asks for, the last step too.
    let tmp = tempfile::tempdir().unwrap();
    let mut trainer = common::trainer(&backend, config, 1);
    let mut log = Log { always: true, ..Log::default() };
    train(&mut trainer, Objective::NextToken, Some(tmp.path()), 100, &mut log);
    assert_eq!(names(tmp.path()), ["step-00000005", "step-00000006"]);
}

#[test]
fn other_things_in_the_directory_are_left_alone() {
    let (tmp, _) = run_with_checkpoints(&train_config(DType::F32));
    std::fs::write(tmp.path().join("notes.txt"), "mine").unwrap();
    std::fs::create_dir(tmp.path().join("step-old")).unwrap();
    let backend = cpu(1);
    let (mut trainer, _) = resumed(&backend, &train_config(DType::F32), tmp.path());
    let mut log = Log { always: true, ..Log::default() };
    train(&mut trainer, Objective::NextToken, Some(tmp.path()), 1, &mut log);
    assert_eq!(names(tmp.path()), ["notes.txt", "step-00000005", "step-00000006", "step-old"]);
}

/// A way to damage a checkpoint directory.
type Damage = (&'static str, fn(&Path));

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 0x40;
    std::fs::write(file, bytes).unwrap();
}

const DAMAGES: [Damage; 9] = [
    ("a flipped bit in the weights", |d| flip(&d.join("model.safetensors"), 20_000)),
    ("a flipped bit in the header", |d| flip(&d.join("model.safetensors"), 3)),
    ("a flipped bit in the manifest", |d| flip(&d.join("manifest.json"), 200)),
    ("truncated weights", |d| {
        let file = d.join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    }),
    ("empty weights", |d| std::fs::write(d.join("model.safetensors"), "").unwrap()),
    ("an empty manifest", |d| std::fs::write(d.join("manifest.json"), "").unwrap()),
    ("no weights", |d| std::fs::remove_file(d.join("model.safetensors")).unwrap()),
    ("no manifest", |d| std::fs::remove_file(d.join("manifest.json")).unwrap()),
    ("a directory in place of the weights", |d| {
        std::fs::remove_file(d.join("model.safetensors")).unwrap();
        std::fs::create_dir(d.join("model.safetensors")).unwrap();
    }),
];

#[test]
fn a_damaged_checkpoint_is_passed_over_said_and_replaced() {
    let backend = cpu(1);
    let config = train_config(DType::F32);
    for (what, damage) in DAMAGES {
        let (tmp, want) = run_with_checkpoints(&config);
        damage(&step_dir(tmp.path(), 5));
        let (mut trainer, resume) = resumed(&backend, &config, tmp.path());
        let Resume::At { step: 4, skipped, .. } = resume else { panic!("{what}: {resume:?}") };
        assert!(skipped.len() == 1 && skipped[0].contains("step-00000005"), "{what}: {skipped:?}");
        // The same step is reached again and saved in the damaged one's place.
        let mut log = Log { always: true, ..Log::default() };
        assert_eq!(train(&mut trainer, Objective::NextToken, Some(tmp.path()), 1, &mut log), Outcome::Finished);
        assert!(state(&trainer) == want, "{what}: the run went another way");
        assert_eq!(names(tmp.path()), ["step-00000005", "step-00000006"], "{what}");
        let (_, resume) = resumed(&backend, &config, tmp.path());
        assert!(matches!(resume, Resume::At { step: 6, skipped, .. } if skipped.is_empty()), "{what}");
    }
}

#[test]
fn when_all_checkpoints_are_damaged_the_run_does_not_begin_anew_in_silence() {
    let backend = cpu(1);
    let config = train_config(DType::F32);
    for (what, damage) in DAMAGES {
        let (tmp, _) = run_with_checkpoints(&config);
        damage(&step_dir(tmp.path(), 4));
        damage(&step_dir(tmp.path(), 5));
        let error = load_latest(&mut trainer(&backend, config.clone(), 1), tmp.path(), &identity()).unwrap_err();
        assert!(matches!(error, Error::State { .. }), "{what}: {error:?}");
        let message = error.to_string();
        assert!(message.contains("step-00000005") && message.contains("damaged"), "{what}: {message}");
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_the_difference() {
    let backend = cpu(1);
    let (tmp, _) = run_with_checkpoints(&train_config(DType::F32));
    for (other, difference) in [
        (json!({"recipe": {"lr": 0.02, "steps": 6}, "teacher": "abc"}), "`recipe.lr` was 0.01, is 0.02"),
        (json!({"recipe": {"lr": 0.01, "steps": 6}, "teacher": "xyz"}), "`teacher` was \"abc\", is \"xyz\""),
        (json!({"recipe": {"lr": 0.01, "steps": 6}}), "`teacher` was \"abc\", is null"),
        (json!({"recipe": {"lr": 0.01, "steps": 6, "seed": 1}, "teacher": "abc"}), "`recipe.seed` was null, is 1"),
    ] {
        let mut trainer = trainer(&backend, train_config(DType::F32), 1);
        let before = state(&trainer);
        let error = load_latest(&mut trainer, tmp.path(), &other).unwrap_err();
        assert!(matches!(error, Error::OtherRun { .. }), "{error:?}");
        assert!(error.to_string().contains(difference), "{error}");
        assert!(state(&trainer) == before && trainer.step_count() == 0, "nothing was taken over");
    }
}

#[test]
fn a_checkpoint_of_another_model_or_format_is_refused() {
    let backend = cpu(1);
    let (tmp, _) = run_with_checkpoints(&train_config(DType::F32));
    let mut wider =
        Trainer::new(&backend, arch(20), train_config(DType::F32), |p| Ok::<_, Error>(lively(p, 1))).unwrap();
    let error = load_latest(&mut wider, tmp.path(), &identity()).unwrap_err();
    assert!(matches!(error, Error::State { .. }), "{error:?}");
    for word in ["step-00000005", "model.embed_tokens.weight.master", "[50, 16]", "[50, 20]"] {
        assert!(error.to_string().contains(word), "`{word}`: {error}");
    }
    // A program of the past does not pass over what a newer one wrote.
    let dir = step_dir(tmp.path(), 6);
    let out = paring_checkpoint::DirWriter::create(&dir, paring_checkpoint::Overwrite::Refuse).unwrap();
    paring_checkpoint::manifest::commit(out, "paring training state", FORMAT_VERSION + 1, &Value::Null).unwrap();
    let mut trainer = trainer(&backend, train_config(DType::F32), 1);
    let error = load_latest(&mut trainer, tmp.path(), &identity()).unwrap_err();
    let is_kind = matches!(&error, Error::Checkpoint(paring_checkpoint::Error::Unsupported { .. }));
    assert!(is_kind && error.to_string().contains("version"), "{error:?}");
}

#[test]
fn any_flipped_bit_of_a_manifest_leads_to_the_checkpoint_before() {
    let backend = cpu(1);
    let config = train_config(DType::F32);
    let tmp = tempfile::tempdir().unwrap();
    let trainer = trainer(&backend, config.clone(), 1);
    save(&trainer, tmp.path(), &identity(), &Value::Null).unwrap();
    let good = step_dir(tmp.path(), 0);
    let newer = step_dir(tmp.path(), 1);
    std::fs::create_dir(&newer).unwrap();
    for name in ["manifest.json", "model.safetensors"] {
        std::fs::copy(good.join(name), newer.join(name)).unwrap();
    }
    let manifest = newer.join("manifest.json");
    let text = std::fs::read(&manifest).unwrap();
    let mut other = common::trainer(&backend, config, 2);
    for at in 0..text.len() {
        let mut bad = text.clone();
        bad[at] ^= 1 << (at % 8);
        // White space between values carries nothing.
        if text[at].is_ascii_whitespace() && bad[at].is_ascii_whitespace() {
            continue;
        }
        std::fs::write(&manifest, &bad).unwrap();
        match load_latest(&mut other, tmp.path(), &identity()) {
            Ok(Resume::At { skipped, .. }) => assert_eq!(skipped.len(), 1, "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
    }
}
