//! Layers measured one by one and in blocks, tasks, and files about them that cannot be used.
use crate::lab::Lab;
use paring_checkpoint::SafetensorsFile;
use rustix::process::Signal;
use serde_json::Value;

/// A question of which every choice is in the tiny model's vocabulary of bytes.
const ROWS: &str = "{\"ctx\": \"The capital of France is\", \"choices\": [\" Paris\", \" the sea\", \" a\"], \"gold\": 0}\n\
    {\"ctx\": \"Water is\", \"choices\": [\" wet\", \" dry\"], \"gold\": 0, \"id\": 4}\n\n\
    {\"ctx\": [\"Snow is\", \"Coal is\"], \"choices\": [\" white\", \" white\"], \"gold\": 0}\n\
    {\"ctx\": \"\", \"choices\": [\"Two\", \"x\"], \"gold\": 1}\n";

const IMPORTANCE: &str = "importance --model model --text text.txt --context 64 --windows 6";

fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("small.jsonl", ROWS);
    lab
}

#[test]
fn tasks_are_measured_with_and_without_a_text() {
    let lab = lab();
    lab.write("other.v2.jsonl", &ROWS[..ROWS.find('\n').unwrap()]);
    let json = lab.json("eval --model model --task small.jsonl other.v2.jsonl");
    assert_eq!((&json["nll"], &json["perplexity"], &json["tokens"]), (&Value::Null, &Value::Null, &Value::Null));
    let small = &json["tasks"]["small"];
    let part = |name: &str| small[name].as_f64().unwrap();
    assert_eq!(small["n"], 4);
    for (p, e) in [("accuracy", "stderr"), ("accuracy_norm", "stderr_norm")] {
        assert!([0.0, 0.25, 0.5, 0.75, 1.0].contains(&part(p)), "{json}");
        assert!((part(e) - (part(p) * (1.0 - part(p)) / 3.0).sqrt()).abs() < 1e-12, "{json}");
    }
    let other = &json["tasks"]["other"];
    assert_eq!((&other["n"], &other["stderr"]), (&1.into(), &Value::Null));
    assert_eq!(json["tasks"].as_object().unwrap().len(), 2);
    // The first rows only; and a text beside it, which changes nothing.
    let text = "--text heldout.txt --context 64 --windows 2";
    let both = lab.json(&format!("eval --model model {text} --task small.jsonl --task-rows 1"));
    assert_eq!(both["tasks"]["small"], *other);
    assert_eq!(both["nll"], lab.json(&format!("eval --model model {text}"))["nll"]);
    assert!(lab.done("eval --model model --task small.jsonl").stdout.contains("small: accuracy"));
}

#[test]
fn tasks_that_cannot_be_used() {
    let lab = lab();
    let good = "{\"ctx\": \"a\", \"choices\": [\"b\"], \"gold\": 0}\n";
    let long = format!("{{\"ctx\": \"{}\", \"choices\": [\" b\"], \"gold\": 0}}", "z".repeat(400));
    for (name, row, says) in [
        ("gold.jsonl", "{\"ctx\": \"a\", \"choices\": [\"b\"], \"gold\": 1}", "line 2: `gold` is 1, expected 0 to 0"),
        ("none.jsonl", "{\"ctx\": \"a\", \"choices\": [], \"gold\": 0}", "line 2: `choices` is empty"),
        ("list.jsonl", "[1]", "line 2: expected an object"),
        ("blank.jsonl", "{\"ctx\": \"a\", \"choices\": [\"\"], \"gold\": 0}", "line 2: choice 0 is empty"),
        ("long.jsonl", &long, "positions; shorten the ctx"),
        ("cut.jsonl", "{\"ctx\": ", "line 2"),
    ] {
        lab.write(name, format!("{good}{row}\n"));
        lab.refused(&format!("eval --model model --task {name}"), &[name, says]);
        lab.refused(&format!("{IMPORTANCE} --out new --depth-task {name}"), &[name, says]);
    }
    lab.write("empty.jsonl", "\n");
    lab.write("sub/small.jsonl", ROWS);
    for (flags, says) in [
        ("--task nowhere.jsonl", &["nowhere.jsonl: cannot be read"][..]),
        ("--task empty.jsonl", &["empty.jsonl: nothing to read"]),
        ("--task small.jsonl --task-rows 0", &["rows: 0, expected at least one"]),
        ("--task small.jsonl sub/small.jsonl", &["two files are called `small`"]),
        ("--task", &["--task"]),
    ] {
        lab.refused(&format!("eval --model model {flags}"), says);
    }
}

/// The values of an array of an importance file.
fn array(lab: &Lab, file: &str, name: &str) -> Vec<f64> {
    let file = SafetensorsFile::open(&lab.path(file)).unwrap();
    let bytes = file.bytes(name).unwrap();
    bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect()
}

#[test]
fn what_was_measured_of_layers_is_in_the_file_and_in_json() {
    let lab = lab();
    let flags =
        "--depth lm-loss,blocks,greedy --depth-windows 3 --depth-task small.jsonl --block-sizes 1..=2 --depth-greedy 2";
    let json = lab.json(&format!("{IMPORTANCE} {flags} --out all --depth-out depth.json"));
    let depth = &json["depth"];
    assert_eq!(lab.read_json("depth.json"), *depth);
    assert_eq!((&depth["windows"], &depth["predicted_tokens"]), (&3.into(), &(3 * 63).into()));
    // Four layers: 4 + 6 for each of them and 3 + 2 + 1 for blocks, then the second step of greedy search: 2 + 3; once more for the task.
    let blocks = 4 + 6 + 3;
    assert_eq!(depth["layer_runs"], 2 * blocks + 5, "{depth}");
    assert_eq!(array(&lab, "all", "depth.nll"), [depth["baseline"]["nll"].as_f64().unwrap()]);
    let single = array(&lab, "all", "depth.layer_nll");
    assert_eq!((single.len(), array(&lab, "all", "depth.block_nll.1") == single), (4, true));
    let pairs = array(&lab, "all", "depth.block_nll.2");
    let points = depth["figure8"][1]["points"].as_array().unwrap();
    assert_eq!((pairs.len(), points.len(), &depth["figure8"][1]["size"]), (3, 3, &2.into()));
    for (i, (point, nll)) in points.iter().zip(&pairs).enumerate() {
        let want = serde_json::json!({"first": i, "last": i + 1, "x": i + 2, "nll": nll});
        assert_eq!(*point, want);
    }
    // Greedy search begins with the layer whose loss is lowest, and names what it removed.
    let order = array(&lab, "all", "depth.greedy.order");
    let lowest = (0..4).min_by(|&a, &b| single[a].total_cmp(&single[b])).unwrap();
    assert_eq!((order.len(), order[0] as usize), (2, lowest));
    assert_eq!(array(&lab, "all", "depth.greedy.nll")[0], single[lowest]);
    assert_eq!(depth["greedy"][0]["removed"], serde_json::json!([lowest]));
    assert_eq!(depth["greedy"][1]["removed"].as_array().unwrap().len(), 2);
    // Each layer turns the stream as its block influence says, here over the windows of the sweep.
    assert_eq!(array(&lab, "all", "depth.block_cosine.2").len(), 3);
    assert_eq!(depth["influence"][0]["points"].as_array().unwrap().len(), 4);
    assert!(array(&lab, "all", "depth.block_angular.1").iter().all(|a| (0.0..=1.0).contains(a)));
    // The task, which `eval` agrees on.
    let eval = lab.json("eval --model model --task small.jsonl");
    assert_eq!(array(&lab, "all", "depth.task.accuracy"), [eval["tasks"]["small"]["accuracy"].as_f64().unwrap()]);
    assert_eq!(depth["figure9"]["task"], "small");
    assert_eq!(depth["figure9"]["blocks"][1]["points"].as_array().unwrap().len(), 3);
    assert_eq!(array(&lab, "all", "depth.block_accuracy.2").len(), 3);
    // Nothing depends on threads, and other commands read the file.
    lab.done(&format!("{IMPORTANCE} {flags} --out again --threads 1"));
    let bytes = |name: &str| std::fs::read(lab.path(name)).unwrap();
    assert!(bytes("all") == bytes("again"));
    lab.done("prune --model model --importance all --ffn 24 --out pruned");
    // What goes by each rule.
    let dropped = |rule: &str, n: usize| {
        let out = format!("dropped-{rule}-{n}");
        let line = format!("prune --model model --importance all --drop-by {rule} --layers {} --out {out}", 4 - n);
        let plan = lab.json(&line)["plan"].clone();
        let kept: Vec<u64> = plan["layers"].as_array().unwrap().iter().map(|l| l["layer"].as_u64().unwrap()).collect();
        (0..4).filter(|l| !kept.contains(&(*l as u64))).collect::<Vec<usize>>()
    };
    let first = |values: &[f64]| (0..values.len()).min_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
    let block = first(&pairs);
    assert_eq!(dropped("lm-loss", 1), [lowest]);
    assert_eq!(dropped("blocks", 2), [block, block + 1]);
    let angular = first(&array(&lab, "all", "depth.block_angular.2"));
    assert_eq!(dropped("angular", 2), [angular, angular + 1]);
    let mut gone: Vec<usize> = order.iter().map(|&l| l as usize).collect();
    gone.sort_unstable();
    assert_eq!(dropped("greedy", 2), gone);
    assert_eq!(dropped("task", 2).len(), 2);
    assert_eq!(dropped("block-influence", 1).len(), 1);
    lab.refused(
        "prune --model model --importance all --drop-by blocks --layers 1 --out new",
        &["`depth.block_nll.3` is missing", "--depth blocks --block-sizes 3"],
    );
    lab.refused(
        "prune --model model --importance all --drop-by greedy --ffn 24 --out new",
        &["--drop-by", "--layers N"],
    );
    lab.refused(
        "prune --model model --importance all --drop-by greedy --drop-layers 1 --out new",
        &["--drop-by", "cannot be used with", "--drop-layers"],
    );
    let text = lab.done(&format!("{IMPORTANCE} {flags} --out third"));
    assert!(text.stdout.contains("without layer") && text.stdout.contains("small: best block"), "{}", text.stdout);
    let alone = lab.json(&format!("{IMPORTANCE} --depth influence --out influence"));
    assert_eq!((&alone["depth"]["layer_runs"], alone["depth"].get("figure8")), (&4.into(), None));
    let plan = lab.json(&format!("{IMPORTANCE} {flags} --out new --dry-run"));
    assert!(0.0 < plan["seconds"].as_f64().unwrap() && !lab.path("new").exists());
}

#[test]
fn sweeps_that_cannot_be() {
    let lab = lab();
    lab.write("there.json", "{}");
    for (flags, says) in [
        ("--depth layers", &["--depth", "layers", "lm-loss"][..]),
        ("--depth blocks --block-sizes 4", &["--block-sizes: 4 layers cannot be removed from 4: expected 1 to 3"]),
        ("--depth blocks --block-sizes 0", &["--block-sizes: 0 layers"]),
        ("--depth blocks --block-sizes 2..=1", &["--block-sizes: `2..=1` is no size"]),
        ("--depth blocks --block-sizes all", &["--block-sizes: `all` is no size", "1..=8,16"]),
        ("--depth greedy --depth-greedy 4", &["--depth-greedy: 4 layers cannot be removed from 4"]),
        ("--depth greedy --depth-greedy 0", &["--depth-greedy: 0 layers"]),
        ("--depth lm-loss --depth-greedy 2", &["--depth-greedy is for --depth greedy"]),
        ("--depth lm-loss --depth-windows 0", &["--depth-windows 0: expected at least 1"]),
        ("--depth lm-loss --depth-out there.json", &["there.json"]),
        ("--depth-task small.jsonl --depth-task-rows 0", &["rows: 0"]),
        ("--block-sizes 1", &["--block-sizes says how to sweep", "--depth lm-loss,blocks,greedy"]),
        ("--depth-out new.json", &["--depth-out says how"]),
        ("--depth-windows 3", &["--depth-windows says how"]),
    ] {
        lab.refused(&format!("{IMPORTANCE} --out new {flags}"), says);
    }
}

#[test]
fn a_signal_ends_a_sweep_and_leaves_nothing() {
    let lab = lab();
    let line =
        "importance --model model --text text.txt --context 128 --depth greedy,blocks --depth-windows 100000 --out new";
    for signal in [Signal::INT, Signal::TERM] {
        let before = lab.listing();
        let run = lab.start(line);
        std::thread::sleep(std::time::Duration::from_millis(300));
        run.signal(signal);
        let ran = run.wait();
        // It may have been done already, on a fast machine.
        if ran.code == 0 {
            std::fs::remove_file(lab.path("new")).unwrap();
            continue;
        }
        assert_eq!(ran.code, 128 + signal.as_raw(), "{ran:?}");
        assert!(ran.stderr.contains("stopped by signal"), "{ran:?}");
        assert_eq!(lab.listing(), before);
    }
}
