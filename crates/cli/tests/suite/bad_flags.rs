//! Arguments and recipes that cannot work: each is refused by flag or key, with what to do, and nothing is left behind.
use crate::lab::Lab;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

const TEXT: &str = "--text text.txt --context 64";

/// Checks a table of what is behind `command`, and what the refusal has to say.
fn check(lab: &Lab, command: &str, cases: &[(&str, &[&str])]) {
    for (flags, says) in cases {
        lab.refused(&format!("{command} {flags}"), says);
    }
}

#[test]
fn targets() {
    let lab = Lab::new();
    let cases: &[(&str, &[&str])] = &[
        ("", &["--params", "--ffn", "--drop-layers"]),
        ("--params 2.0", &["--params 2.0", "smallest candidate"]),
        ("--params 0", &["--params 0", "expected a part like 0.5"]),
        ("--params -1", &["-1"]),
        ("--params=-1", &["--params -1"]),
        ("--params nan", &["--params nan"]),
        ("--params half", &["--params half"]),
        ("--params 1e300B", &["--params 1e300B"]),
        ("--params 10B", &["--params 10B", "the teacher has only"]),
        ("--hidden 22", &["hidden 22 with 4 query heads will not load", "take 20 or 24"]),
        ("--hidden 28", &["hidden 28 is more than the teacher has, expected at most 24"]),
        ("--hidden 0", &["hidden 0 leaves nothing"]),
        ("--ffn 49", &["ffn 49 is more than the teacher has, expected at most 48"]),
        ("--ffn 18446744073709551615", &["ffn 18446744073709551615"]),
        ("--ffn 99999999999999999999", &["--ffn", "99999999999999999999"]),
        ("--ffn ten", &["--ffn", "ten"]),
        ("--heads 3", &["3 query heads do not divide among 2 KV groups"]),
        ("--heads 6", &["heads 6 is more than the teacher has, expected at most 4"]),
        ("--kv-groups 1 --heads 4", &["heads 4 is more", "at most 2"]),
        ("--kv-groups 3", &["kv_groups 3 is more"]),
        ("--layers 0", &["all 4 layers would be dropped"]),
        ("--layers 5", &["layers 5 is more"]),
        ("--drop-layers 0..=3", &["all 4 layers would be dropped"]),
        ("--drop-layers 4", &["layer 4 does not exist, expected 0 to 3"]),
        ("--drop-layers 1,1", &["layer 1 is named twice"]),
        ("--drop-layers one", &["--drop-layers: `one` is no layer"]),
        ("--drop-layers 3..=1", &["--drop-layers: `3..=1` is no layer"]),
        ("--drop-layers 0..3", &["--drop-layers: `0..3` is no layer"]),
        ("--drop-layers 0..=65536", &["--drop-layers: `0..=65536`"]),
        ("--layers 3 --drop-layers 1", &["--layers", "cannot be used with", "--drop-layers"]),
        ("--ffn 24 --compensate none --ridge auto", &["--ridge", "needs --compensate least-squares"]),
        ("--ffn 24 --compensate none --sequential", &["--sequential", "needs --compensate least-squares"]),
        ("--ffn 24 --compensate none --block-map=false", &["--block-map", "needs --compensate least-squares"]),
        ("--ffn 24 --compensate least-squares --ridge=-1", &["--ridge -1: expected auto, or a number"]),
        ("--ffn 24 --compensate least-squares --ridge nan", &["--ridge nan: expected auto"]),
        ("--ffn 24 --compensate least-squares --sequential=maybe", &["--sequential", "maybe"]),
        ("--ffn 24 --merge-heads all", &["--merge-heads", "all", "paper"]),
        (
            "--heads 2 --merge-heads paper --compensate least-squares --sequential=false",
            &["--merge-heads and --merge-kv", "--sequential=false"],
        ),
        ("--ffn 24 --basis other", &["--basis", "other", "channels"]),
        ("--ffn 24 --compensate all", &["--compensate", "all", "least-squares"]),
    ];
    check(&lab, &format!("compress --model model {TEXT} --out new"), cases);
    lab.done(&format!("importance --model model {TEXT} --windows 2 --out importance"));
    check(&lab, "prune --model model --importance importance --out new", cases);
}

#[test]
fn training() {
    let lab = Lab::new();
    for command in ["compress --model model --ffn 24", "distill --student model --teacher model"] {
        check(
            &lab,
            &format!("{command} {TEXT} --out new"),
            &[
                ("--lr 0", &["--lr 0: expected above 0"]),
                ("--lr 2", &["--lr 2"]),
                ("--lr nan", &["--lr NaN"]),
                ("--lr=-1e-3", &["--lr -0.001"]),
                ("--lr-floor 1.5", &["--lr-floor 1.5"]),
                ("--weight-decay 1", &["--weight-decay 1"]),
                ("--weight-decay nan", &["--weight-decay NaN"]),
                ("--clip=-1", &["--clip -1"]),
                ("--clip inf", &["--clip inf"]),
                ("--batch 0", &["--batch 0: expected 1 to 65536"]),
                ("--batch 70000", &["--batch 70000"]),
                ("--micro-batch 0", &["--micro-batch 0: expected at least 1"]),
                ("--budget 0", &["--budget 0: expected 1 to"]),
                ("--budget 18446744073709551615", &["--budget 18446744073709551615: expected 1 to"]),
                ("--budget 1e6", &["--budget", "1e6"]),
                ("--checkpoint-every 0", &["--checkpoint-every 0"]),
                ("--seed 18446744073709551615", &["recipe"]),
                ("--seed=-1", &["--seed", "-1"]),
            ],
        );
    }
    check(
        &lab,
        &format!("compress --model model {TEXT} --ffn 24 --out new"),
        &[
            ("--eval-windows 0", &["--eval-windows 0: expected at least 1"]),
            ("--calibration-windows 0", &["--calibration-windows 0: expected at least 1"]),
            ("--heldout nothing.txt", &["nothing.txt"]),
        ],
    );
    lab.refused(
        &format!("distill --student model --teacher model {TEXT} --budget 256 --out new --resume"),
        &["--resume: there is no checkpoint in new.unfinished/checkpoints"],
    );
}

#[test]
fn what_all_commands_share() {
    let lab = Lab::new();
    for command in
        ["eval --model model", "compress --model model --ffn 24 --out new", "importance --model model --out new"]
    {
        check(
            &lab,
            &format!("{command} --text text.txt"),
            &[
                ("--context 0", &["--context 0: expected at least 2"]),
                ("--context 1", &["--context 1: expected at least 2"]),
                ("--context 129", &["--context 129", "128 positions"]),
                ("--context 18446744073709551615", &["--context 18446744073709551615"]),
                ("--context 64 --windows 0", &["--windows 0: expected at least 1"]),
                ("--context 64 --threads 0", &["--threads 0: expected at least 1"]),
                ("--context 64 --threads 100000", &["--threads 100000", "expected 1 to 1024"]),
                ("--context 64 --device nonsense", &["--device nonsense: expected cpu, cuda or cuda:N"]),
                ("--context 64 --device cuda:", &["--device cuda:: expected cpu, cuda or cuda:N"]),
                ("--context 64 --device cuda:-1", &["--device cuda:-1: expected"]),
                ("--context 64 --device cuda:x", &["--device cuda:x: expected"]),
                ("--context 64 --device cudart", &["--device cudart: expected"]),
                ("--context 64 --dtype f16", &["--dtype", "f16", "bf16"]),
                ("--context 64 --nonsense", &["--nonsense"]),
                ("--context 64 --tokens ids.jsonl", &["--text", "cannot be used with", "--tokens"]),
                ("--context", &["--context"]),
                ("--context 64 stray", &["stray"]),
            ],
        );
        lab.refused(command, &["--text FILE... or --tokens FILE"]);
    }
}

#[test]
fn weights_as_they_are_stored_are_for_running_a_model_forward() {
    let lab = Lab::new();
    lab.done("importance --model model --text text.txt --context 64 --windows 4 --out importance");
    for command in [
        "importance --model model --text text.txt --context 64 --out new",
        "prune --model model --importance importance --ffn 24 --out new",
        "distill --student model --teacher model --text text.txt --context 64 --budget 256 --out new",
        "compress --model model --text text.txt --context 64 --budget 256 --ffn 24 --out new",
    ] {
        lab.refused(&format!("{command} --dtype stored"), &["--dtype stored is for generate and eval", "f32 or bf16"]);
    }
    // The model's weights are bf16 or f32: as stored is one of these, and what generate does by itself.
    let eval =
        |dtype: &str| lab.json(&format!("eval --model model --text text.txt --context 64 {dtype}"))["nll"].clone();
    let stored = eval("--dtype stored");
    assert!([eval("--dtype f32"), eval("--dtype bf16")].contains(&stored), "{stored}");
    assert_eq!(eval(""), eval("--dtype f32"));
    let generate = |dtype: &str| lab.json(&format!("generate --model model --prompt ab {dtype}"))["text"].clone();
    assert_eq!(generate(""), generate("--dtype stored"));
}

#[test]
fn what_is_missing_is_asked_for() {
    let lab = Lab::new();
    for (line, says) in [
        ("importance --model model --text text.txt", &["--out FILE"][..]),
        ("prune --model model --importance i", &["--out DIR"]),
        ("prune --model model --ffn 24 --out new", &["--importance FILE", "paring importance"]),
        ("distill --student model", &["--out DIR"]),
        ("distill --teacher model --out new", &["--student DIR"]),
        ("generate --model model", &["--prompt TEXT"]),
        ("eval --model model --task tasks.jsonl", &["tasks.jsonl: cannot be read"]),
        ("fetch", &["what to fetch", "smollm2-135m-instruct"]),
        ("fetch nothing", &["`nothing`", "smollm2-135m-instruct"]),
        ("fetch ../../etc/passwd", &["`../../etc/passwd`"]),
        ("compres", &["compres", "'compress'"]),
        ("--nonsense", &["--nonsense"]),
    ] {
        lab.refused(line, says);
    }
}

#[test]
fn generation() {
    let lab = Lab::new();
    check(
        &lab,
        "generate --model model",
        &[
            ("--prompt=", &["the prompt has no tokens"]),
            ("--prompt a --max-tokens 100000", &["128 positions", "lower --max-tokens"]),
            ("--prompt a --max-tokens 18446744073709551615", &["128 positions"]),
            ("--prompt a --max-tokens=-1", &["--max-tokens", "-1"]),
            ("--prompt a --temperature nan", &["temperature is NaN"]),
            ("--prompt a --temperature=-1", &["temperature is -1"]),
            ("--prompt a --temperature inf", &["temperature is inf"]),
            ("--prompt a --temperature hot", &["--temperature", "hot"]),
            ("--prompt a --top-p 0", &["top-p is 0"]),
            ("--prompt a --top-p 1.5", &["top-p is 1.5"]),
            ("--prompt a --top-p nan", &["top-p is NaN"]),
            ("--prompt a --min-p 2", &["min-p is 2"]),
        ],
    );
    // A prompt that fills all positions, and one that is longer.
    let long = "z".repeat(4000);
    let command = |prompt: &str| lab.command(["generate", "--model", "model", "--max-tokens", "1", "--prompt", prompt]);
    lab.refuses(command(&long), "a long prompt", &["do not fit the model's 128 positions"]);
}

#[test]
fn recipes() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("directory.toml")).unwrap();
    for (i, (text, says)) in [
        ("ffm = 24", &["unknown key `ffm`", "the nearest is `ffn`"][..]),
        ("budgte = 24", &["unknown key `budgte`", "`budget`"]),
        ("help = true", &["unknown key `help`"]),
        ("recipe = 'other.toml'", &["unknown key `recipe`"]),
        ("max-tokens = 3", &["unknown key `max-tokens`"]),
        ("kv_groups = 1", &["unknown key `kv_groups`", "`kv-groups`"]),
        ("[training]\nlr = 1e-3", &["unknown key `training`"]),
        ("budget = 'many'", &["`budget`", "many"]),
        ("budget = -1", &["`budget`", "-1"]),
        ("budget = 1.5", &["`budget`", "1.5"]),
        ("lr = 'fast'", &["`lr`", "fast"]),
        ("text = 3", &["`text`"]),
        ("text = 'text.txt'", &["`text`"]),
        ("json = 1", &["`json`"]),
        ("compensate = 'all'", &["`compensate`", "all", "least-squares"]),
        ("lr = ", &["line 1 is not TOML"]),
        ("lr = 1\nlr = 2", &["line 2 is not TOML", "duplicate"]),
        ("\n\njust text", &["line 3 is not TOML"]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("recipe-{i}.toml");
        lab.write(&name, text);
        let says: Vec<&str> = says.iter().copied().chain([name.as_str()]).collect();
        lab.refused(&format!("compress --recipe {name} --out new"), &says);
    }
    lab.write("latin.toml", b"lr = '\xe9'");
    lab.write("deep.toml", format!("lr = {}1{}", "[".repeat(5000), "]".repeat(5000)));
    for name in ["latin.toml", "deep.toml", "nowhere.toml", "directory.toml", "/dev/full", "text.txt/x"] {
        lab.refused(&format!("compress --recipe {name} --out new"), &[name]);
    }
    // What a flag and a recipe say together has to make sense too.
    lab.write("layers.toml", "layers = 3");
    lab.refused(
        &format!("compress --model model {TEXT} --recipe layers.toml --drop-layers 1 --out new"),
        &["both a number of layers and layers to drop"],
    );
}

/// The long flags that `paring COMMAND --help` lists.
pub(crate) fn flags_of(lab: &Lab, command: &str) -> Vec<String> {
    let help = lab.done(&format!("{command} --help")).stdout;
    // The first on each line: what follows is its description, which may name others. A value that may be left out is glued on: `--flag[=<V>]`.
    // Descriptions are further to the right, and may name a flag at the beginning of a line.
    let left = |l: &str| l.len() - l.trim_start().len() < 10;
    let options = help.lines().filter(|l| left(l) && l.trim_start().starts_with('-'));
    let flag = |word: &str| word.split('[').next().unwrap_or(word).to_string();
    let long = |line: &str| line.split_whitespace().find_map(|w| w.strip_prefix("--").map(flag));
    options.filter_map(long).collect()
}

#[test]
fn every_flag_is_a_recipe_key() {
    let lab = Lab::new();
    for command in ["compress", "importance", "prune", "distill", "eval", "generate", "inspect", "fetch"] {
        let flags = flags_of(&lab, command);
        assert!(8 <= flags.len() && flags.contains(&"device".to_string()), "{command}: {flags:?}");
        for flag in flags.iter().filter(|f| !["help", "recipe"].contains(&f.as_str())) {
            // Of a type that no flag has: the key is known, its value is not.
            lab.write("recipe.toml", format!("{flag} = {{ x = 1 }}"));
            let ran = lab.run(&format!("{command} --recipe recipe.toml"));
            ran.check_refusal(command, 2, &["recipe.toml", &format!("`{flag}`")]);
            assert!(!ran.stderr.contains("unknown key"), "{command}: {}", ran.stderr);
        }
    }
}

#[test]
fn arguments_that_are_no_text() {
    let lab = Lab::new();
    let odd = OsStr::from_bytes(b"x\xff");
    let compress = |odd_at: usize| {
        let words =
            ["compress", "--ffn", "24", "--context", "64", "--model", "model", "--text", "text.txt", "--out", "new"];
        lab.command(words.map(OsStr::new).into_iter().enumerate().map(|(i, w)| if i == odd_at { odd } else { w }))
    };
    lab.refuses(compress(6), "a model", &["UTF-8"]);
    lab.refuses(compress(8), "a text", &["x"]);
    lab.refuses(compress(10), "an output", &["UTF-8"]);
    lab.refuses(lab.command([odd]), "a command", &["x"]);
    // Longer than a file name may be.
    let long = "l".repeat(300);
    lab.refused(&format!("eval --model model --context 64 --text {long}.txt"), &["lll.txt", "File name too long"]);
    lab.refused(&format!("compress --model model {TEXT} --ffn 24 --out {long}"), &["lll", "File name too long"]);
    lab.refused(&format!("importance --model model {TEXT} --out {long}"), &["lll", "File name too long"]);
}
