//! Help, pipes that close, terminals and environments that are not as usual.
use crate::{
    bad_flags::flags_of,
    lab::{Lab, Ran, Running},
    whole::COMPRESS,
};
use std::{fs::File, os::unix::fs::PermissionsExt, process::Stdio};

const EVAL: &str = "eval --model model --text text.txt --context 64 --windows 2";

#[test]
fn what_is_not_built_says_so() {
    let lab = Lab::new();
    for command in ["correct", "compare", "export", "report", "doctor"] {
        for flags in ["", "--params 0.5 --json", "--format gguf -x y"] {
            lab.refused(
                &format!("{command} {flags}"),
                &[&format!("`paring {command}` is not built yet"), "what works: compress"],
            );
        }
        assert!(lab.done(&format!("{command} --help")).stdout.contains("Not built yet"), "{command}");
    }
}

#[test]
fn help_without_arguments_and_with_help() {
    let lab = Lab::new();
    let Ran { code, stdout, stderr } = lab.run("");
    assert_eq!((code, stdout.as_str()), (2, ""));
    for command in ["compress", "importance", "prune", "distill", "eval", "generate", "inspect", "fetch", "bench"] {
        assert!(stderr.lines().any(|l| l.trim_start().starts_with(command)), "{command}: {stderr}");
    }
    assert_eq!(lab.done("--help").stdout, stderr);
    assert_eq!(lab.done("--version").stdout, format!("paring {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_lists_the_flags_of_the_specification() {
    let lab = Lab::new();
    let common = "device dtype threads seed json verbose recipe";
    let text = "text tokens context windows";
    let work = "dry-run force";
    let depth = "depth block-sizes depth-greedy depth-windows depth-task depth-task-rows depth-out";
    let target = "hidden ffn heads kv-groups layers drop-layers params compensate sequential ridge block-map merge-heads merge-kv basis";
    let training = "budget batch micro-batch lr lr-floor warmup weight-decay clip recompute checkpoint-every";
    for (command, flags) in [
        ("compress", format!("model out heldout calibration-windows eval-windows {text} {target} {training} {work}")),
        ("importance", format!("model out {text} {depth} {work}")),
        ("prune", format!("model importance out {text} {target} drop-by {work}")),
        ("distill", format!("student teacher out resume {text} {training} {work}")),
        ("eval", format!("model task task-rows {text}")),
        ("generate", "model prompt max-tokens temperature top-p".to_string()),
        ("inspect", "model".to_string()),
        ("fetch", String::new()),
    ] {
        let there = flags_of(&lab, command);
        for flag in flags.split_whitespace().chain(common.split_whitespace()) {
            assert!(there.iter().any(|f| f == flag), "{command} --{flag} is not in {there:?}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let lab = Lab::new();
    for line in [
        "inspect --model model",
        "inspect --model model --json",
        EVAL,
        "generate --model model --prompt a --max-tokens 90",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = lab.command(line.split_whitespace());
        command.stdout(writer);
        let ran = Running::start(command).wait();
        assert!(ran.code == 0 && ran.stderr.is_empty(), "{line}: {ran:?}");
    }
    let ran = Running::start(lab.shell("\"$0\" inspect --model model | head -1")).wait();
    assert!(ran.code == 0 && ran.stderr.is_empty() && ran.stdout.lines().count() == 1, "{ran:?}");
}

#[test]
fn output_that_cannot_be_written() {
    let lab = Lab::new();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let run = |line: &str, out: Option<Stdio>, err: Option<Stdio>| {
        let mut command = lab.command(line.split_whitespace());
        out.map(|o| command.stdout(o));
        err.map(|e| command.stderr(e));
        Running::start(command).wait()
    };
    run("inspect --model model", Some(full()), None).check_refusal("stdout", 1, &["cannot write to stdout"]);
    // Messages that nobody can read change nothing else.
    assert_eq!(run("inspect --model nowhere", None, Some(full())).code, 2);
    assert_eq!(run("inspect --nonsense", None, Some(full())).code, 2);
    assert_eq!(run(&COMPRESS.replace("compress", "compress -v"), None, Some(full())).code, 0);
    assert!(lab.path("run/config.json").is_file());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run("inspect --model nowhere", None, Some(writer.into())).code, 2);
}

#[test]
fn closed_streams() {
    let lab = Lab::new();
    for (line, streams, code) in [
        (EVAL, "<&-", 0),
        (EVAL, ">&-", 0),
        (EVAL, "2>&-", 0),
        (EVAL, "<&- >&- 2>&-", 0),
        ("inspect --model nowhere", "2>&-", 2),
        ("inspect --model nowhere", "<&- >&- 2>&-", 2),
    ] {
        let ran = Running::start(lab.shell(&format!("exec \"$0\" {line} {streams}"))).wait();
        assert_eq!(ran.code, code, "{line} {streams}: {ran:?}");
    }
}

#[test]
fn surroundings_do_not_change_results() {
    let lab = Lab::new();
    let usual = lab.done(EVAL).stdout;
    let with = |name: &str, value: Option<&str>| {
        let mut command = lab.command(EVAL.split_whitespace());
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        Running::start(command).wait()
    };
    for (name, value) in [
        ("NO_COLOR", Some("1")),
        ("CLICOLOR_FORCE", Some("1")),
        ("COLUMNS", Some("20")),
        ("COLUMNS", Some("0")),
        ("COLUMNS", Some("wide")),
        ("TERM", Some("dumb")),
        ("TERM", None),
        ("HOME", None),
        ("HOME", Some("")),
        ("HOME", Some("/nowhere")),
        ("XDG_CACHE_HOME", Some("/dev/null")),
        ("TMPDIR", Some("/nowhere")),
        ("LC_ALL", Some("de_DE.UTF-8")),
        ("LANG", Some("tr_TR")),
        ("TZ", Some("Nowhere/Nowhere")),
        ("PATH", None),
    ] {
        let ran = with(name, value);
        assert!(ran.code == 0 && ran.stdout == usual && ran.stderr.is_empty(), "{name}={value:?}: {ran:?}");
    }
    let mut narrow = lab.command(["compress", "--help"]);
    narrow.env("COLUMNS", "20");
    assert!(Running::start(narrow).wait().stdout.contains("--drop-layers"));
    // A hub name without a home to look for a cache in.
    let mut homeless = lab.command(["inspect", "--model", "nobody/nothing"]);
    homeless.env_remove("HOME");
    lab.refuses(homeless, "homeless", &["nobody/nothing", "Hugging Face cache"]);
    // A working directory that is gone.
    let script = "mkdir gone && cd gone && rmdir ../gone && exec \"$0\" inspect --model model";
    Running::start(lab.shell(script)).wait().check_refusal(script, 2, &["model: there is no such file"]);
    let script = "M=$PWD; mkdir gone && cd gone && rmdir ../gone && exec \"$0\" importance --model $M/model --text $M/text.txt --context 64 --windows 2 --out new";
    Running::start(lab.shell(script)).wait().check_refusal(script, 2, &["No such file"]);
}

#[test]
fn modes_follow_the_umask() {
    let lab = Lab::new();
    lab.done("importance --model model --text text.txt --context 64 --windows 2 --out importance");
    let mode = |name: &str| std::fs::metadata(lab.path(name)).unwrap().permissions().mode() & 0o777;
    for (umask, dir, file) in [("077", 0o700, 0o600), ("000", 0o777, 0o666), ("022", 0o755, 0o644)] {
        let script =
            format!("umask {umask}; exec \"$0\" prune --model model --importance importance --ffn 24 --out m{umask}");
        assert_eq!(Running::start(lab.shell(&script)).wait().code, 0);
        let got = ["", "/paring", "/model.safetensors", "/config.json", "/paring/plan.json"]
            .map(|n| mode(&format!("m{umask}{n}")));
        assert_eq!(got, [dir, dir, file, file, file], "{umask}: {got:?}");
    }
}

#[test]
fn a_hub_cache_is_read() {
    let lab = Lab::new();
    let snapshot = "hub/models--org--name/snapshots/0123abcd";
    lab.write("hub/models--org--name/refs/main", "0123abcd");
    std::fs::create_dir_all(lab.path(snapshot)).unwrap();
    std::fs::remove_dir(lab.path(snapshot)).unwrap();
    std::fs::rename(lab.path("model"), lab.path(snapshot)).unwrap();
    let run = |model: &str, name: &str, value: &str| {
        let mut command = lab.command(["inspect", "--json", "--model", model]);
        command.env(name, lab.path(value));
        Running::start(command).wait()
    };
    for (model, name, value) in [
        ("org/name", "HF_HUB_CACHE", "hub"),
        ("org/name@main", "HF_HUB_CACHE", "hub"),
        ("org/name@0123abcd", "HF_HUB_CACHE", "hub"),
        ("org/name", "HF_HOME", ""),
    ] {
        let ran = run(model, name, value);
        assert!(ran.code == 0 && ran.stdout.contains("\"hidden\":24"), "{model}: {ran:?}");
    }
    run("org/name@other", "HF_HUB_CACHE", "hub").check_refusal(
        "other",
        2,
        &["revision other is not in the Hugging Face cache"],
    );
}
