//! Kills, signals, two runs at once, and disks that end: what is there is whole, and the same command goes on to the same bytes.
use crate::{
    lab::{Files, Lab, Running},
    whole::{COMPRESS, check_same, lasting},
};
use rustix::process::Signal;
use std::sync::LazyLock;

/// Steps of [`LONG`].
const STEPS: u64 = 120;

/// A checkpoint every second step: enough of both that it still runs when a test looks.
const LONG: &str = "compress --model model --text text.txt --params 0.5 --context 64 --budget 61440 --batch 8 --lr 1e-3 \
                    --checkpoint-every 2 --calibration-windows 8 --eval-windows 4 --out run";

/// What [`LONG`] leaves when nothing interrupts it.
fn unbroken() -> &'static Files {
    static UNBROKEN: LazyLock<Files> = LazyLock::new(|| {
        let lab = Lab::new();
        lab.done(LONG);
        lasting(&lab, "run")
    });
    &UNBROKEN
}

/// The step of the newest checkpoint of the run to `out`; 0 when there is none.
fn newest(lab: &Lab, out: &str) -> u64 {
    let Ok(entries) = std::fs::read_dir(lab.path(&format!("{out}.unfinished/checkpoints"))) else { return 0 };
    let names = entries.filter_map(|e| e.ok()).map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.strip_prefix("step-").and_then(|s| s.parse().ok())).max().unwrap_or(0)
}

/// Starts `line`, and waits until its checkpoint of `step` is there.
fn started(lab: &Lab, line: &str, step: u64) -> Running {
    let mut run = lab.start(line);
    let out = line.rsplit(' ').next().unwrap();
    assert!(run.until(|| step <= newest(lab, out)), "it ended before step {step}: {:?}", run.wait());
    run
}

/// The step that a resumed run says it goes on from.
fn went_on_from(stderr: &str) -> u64 {
    let said = stderr.lines().find_map(|l| l.strip_prefix("going on after step "));
    said.unwrap_or_else(|| panic!("did not go on: {stderr}")).parse().unwrap()
}

fn no_leftovers(lab: &Lab) {
    let left: Vec<String> =
        lab.listing().into_keys().filter(|n| n.contains("unfinished") || n.contains("paring-tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn killed_again_and_again_it_ends_with_the_same_bytes() {
    let lab = Lab::new();
    // In the calibration; what is measured is kept.
    let mut run = lab.start(LONG);
    assert!(run.until(|| lab.path("run.unfinished/importance.safetensors").exists()));
    assert_eq!(run.kill().code, -Signal::KILL.as_raw());
    let mut kept = 0;
    for step in [2, 20, 40] {
        let run = started(&lab, LONG, step);
        let ran = run.kill();
        assert_eq!(ran.code, -Signal::KILL.as_raw());
        assert!(!lab.path("run").exists(), "nothing has the final name before it is whole");
        if 0 < kept {
            assert_eq!(went_on_from(&ran.stderr), kept, "the newest checkpoint is where it goes on");
        }
        kept = newest(&lab, "run");
        assert!(step <= kept && kept < STEPS, "{kept}");
    }
    // What a run leaves that dies while it writes the student itself.
    lab.write(".run.paring-tmp-1-0/model.safetensors", "half");
    assert_eq!(went_on_from(&lab.done(LONG).stderr), kept);
    check_same(&lasting(&lab, "run"), unbroken());
    no_leftovers(&lab);
}

#[test]
fn signals_leave_a_checkpoint_and_their_exit_code() {
    let lab = Lab::new();
    let mut kept = 0;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let run = started(&lab, LONG, kept + 2);
        run.signal(signal);
        let ran = run.wait();
        kept = newest(&lab, "run");
        let says = [format!("stopped by signal {}", signal.as_raw()), format!("the checkpoint of step {kept} is kept")];
        let last = ran.stderr.lines().last().unwrap();
        assert!(ran.code == code && says.iter().all(|s| last.contains(s.as_str())), "{says:?}: {ran:?}");
        assert!(ran.stdout.is_empty() && !lab.path("run").exists());
    }
    assert_eq!(went_on_from(&lab.done(LONG).stderr), kept);
    check_same(&lasting(&lab, "run"), unbroken());
    no_leftovers(&lab);
}

#[test]
fn another_run_is_not_continued() {
    let lab = Lab::new();
    started(&lab, LONG, 2).kill();
    let kept = newest(&lab, "run");
    let refused = |line: &str, says: &[&str]| {
        lab.run(line).check_refusal(line, 2, says);
        assert_eq!(newest(&lab, "run"), kept, "the checkpoint is still there");
    };
    refused(&LONG.replace("--lr 1e-3", "--lr 2e-3"), &["run.unfinished", "`lr` was 0.001, is 0.002", "--out"]);
    refused(&LONG.replace("compress", "compress --seed 1"), &["run.unfinished", "`seed` was not set, is 1"]);
    refused(&LONG.replace("--params 0.5", "--ffn 24"), &["run.unfinished", "`ffn` was not set", "`params` was"]);
    // The same command on another text, and on another model.
    let (text, weights) = (lab.read("text.txt"), std::fs::read(lab.path("model/model.safetensors")).unwrap());
    lab.write("text.txt", format!("{text} And more."));
    refused(LONG, &["run", "text changed"]);
    lab.write("text.txt", text);
    let mut other = weights.clone();
    let last = other.len() - 2;
    other[last] ^= 1;
    lab.write("model/model.safetensors", other);
    refused(LONG, &["run.unfinished", "another model"]);
    lab.write("model/model.safetensors", weights);
    // What does not change the result may change.
    let ran = lab.done(&LONG.replace("compress", "compress --threads 1 -v"));
    assert_eq!(went_on_from(&ran.stderr), kept);
    check_same(&lasting(&lab, "run"), unbroken());
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let lab = Lab::new();
    started(&lab, LONG, 6).kill();
    let (kept, weights) = (newest(&lab, "run"), "model.safetensors");
    let name = format!("run.unfinished/checkpoints/step-{kept:08}/{weights}");
    let mut bytes = std::fs::read(lab.path(&name)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    lab.write(&name, bytes);
    let ran = lab.done(LONG);
    assert!(ran.stderr.contains("passed over a damaged checkpoint") && ran.stderr.contains(&name), "{}", ran.stderr);
    assert_eq!(went_on_from(&ran.stderr), kept - 2);
    check_same(&lasting(&lab, "run"), unbroken());
}

#[test]
fn distillation_goes_on_too() {
    const LINE: &str = "distill --student model --teacher model --text text.txt --context 64 --budget 30720 --batch 8 --checkpoint-every 2 --out d";
    let (straight, lab) = (Lab::new(), Lab::new());
    straight.done(LINE);
    started(&lab, LINE, 4).kill();
    let kept = newest(&lab, "d");
    let ran = lab.done(&LINE.replace("distill", "distill --resume"));
    assert_eq!(went_on_from(&ran.stderr), kept);
    check_same(&lasting(&lab, "d"), &lasting(&straight, "d"));
    no_leftovers(&lab);
}

#[test]
fn a_second_run_on_the_same_output_is_refused() {
    let lab = Lab::new();
    let first = started(&lab, LONG, 2);
    // Stopped, it holds the lock for as long as the second one needs.
    first.signal(Signal::STOP);
    lab.run(LONG).check_refusal("second", 2, &["run.unfinished/lock", &format!("process {}", first.id())]);
    lab.run(&LONG.replace("--lr 1e-3", "--lr 2e-3")).check_refusal("another", 2, &[&format!("process {}", first.id())]);
    first.signal(Signal::CONT);
    assert_eq!(first.wait().code, 0);
    check_same(&lasting(&lab, "run"), unbroken());
}

#[test]
fn of_many_at_once_one_wins() {
    let lab = Lab::new();
    let runs: Vec<Running> = (0..4).map(|_| lab.start(COMPRESS)).collect();
    let ran: Vec<_> = runs.into_iter().map(Running::wait).collect();
    let (won, lost): (Vec<_>, Vec<_>) = ran.iter().partition(|r| r.code == 0);
    assert_eq!(won.len(), 1, "{ran:?}");
    for r in lost {
        r.check_refusal("a loser", 2, &["run"]);
    }
    assert!(lab.path("run/config.json").is_file());
    no_leftovers(&lab);
}

#[test]
fn a_disk_that_ends_leaves_nothing_half_done() {
    let lab = Lab::new();
    // In blocks of `ulimit`: the recipe, the importance file, the first checkpoint.
    for blocks in [0, 8, 60, 150] {
        let script = format!("ulimit -f {blocks}; exec \"$0\" {LONG}");
        let ran = Running::start(lab.shell(&script)).wait();
        ran.check_refusal(&script, 1, &["run.unfinished/", "File too large"]);
        assert!(!lab.path("run").exists(), "{script}");
        let half: Vec<String> = lab.listing().into_keys().filter(|n| n.contains("paring-tmp")).collect();
        assert!(half.is_empty(), "{script}: {half:?}");
    }
    lab.done(LONG);
    check_same(&lasting(&lab, "run"), unbroken());

    lab.done("importance --model model --text text.txt --context 64 --windows 2 --out importance");
    let before = lab.listing();
    for line in [
        "importance --model model --text text.txt --context 64 --windows 2 --out new",
        "prune --model model --importance importance --ffn 24 --out new",
        "distill --student model --teacher model --text text.txt --context 64 --budget 256 --batch 2 --checkpoint-every 1 --out new",
    ] {
        let ran = Running::start(lab.shell(&format!("ulimit -f 10; exec \"$0\" {line}"))).wait();
        ran.check_refusal(line, 1, &["new", "File too large"]);
        assert!(!lab.path("new").exists());
        if !line.starts_with("distill") {
            assert_eq!(lab.listing(), before, "{line}");
        }
    }
}
