//! The commands one after the other: importance, prune, distill, eval, generate, inspect.
use crate::{
    lab::{Lab, files},
    tiny,
    whole::{INSPECT, check_same, lasting},
};
use paring_checkpoint::{SafetensorsFile, TensorSource};
use paring_prune::Plan;
use serde_json::Value;
use std::fmt::Write;

const IMPORTANCE: &str = "importance --model model --text text.txt --context 64 --windows 16 --out importance";
const PRUNE: &str = "prune --model model --importance importance";

fn fields(json: &Value, names: &[&str]) {
    for name in names {
        assert!(json.get(name).is_some_and(|v| !v.is_null()), "{name} in {json}");
    }
}

/// Windows of 64 ids of the text, as `--tokens` takes them.
fn token_lines(lab: &Lab, n: usize) -> String {
    let windows = paring_text::pack(&tiny::tokenizer(tiny::VOCAB), &[lab.path("text.txt")], 64, Some(n)).unwrap();
    windows.iter().fold(String::new(), |mut text, w| {
        writeln!(text, "{w:?}").unwrap();
        text
    })
}

#[test]
fn too_few_tokens_for_least_squares_are_said() {
    let lab = Lab::new();
    lab.done("importance --model model --text text.txt --context 64 --windows 8 --out importance");
    let prune =
        "prune --model model --importance importance --ffn 24 --compensate least-squares --text text.txt --context 64";
    let few = lab.done(&format!("{prune} --windows 1 --out few")).stderr;
    assert!(
        few.contains(
            "note: 64 calibration tokens are few for least squares over 24 inputs; expect little of it below 192"
        ),
        "{few}"
    );
    let enough = lab.done(&format!("{prune} --windows 4 --out enough")).stderr;
    assert!(!enough.contains("are few"), "{enough}");
}

#[test]
fn from_importance_to_a_student_that_speaks() {
    let lab = Lab::new();
    let json = lab.json(IMPORTANCE);
    fields(&json, &["tokens", "seconds", "out"]);
    assert_eq!(json["tokens"], 16 * 64);

    let json = lab.json(&format!("{PRUNE} --hidden 20 --ffn 24 --layers 3 --out pruned"));
    fields(&json, &["plan", "params", "out"]);
    let inspected = lab.json("inspect --model pruned");
    fields(&inspected, &INSPECT);
    assert_eq!(
        (&inspected["params"], &inspected["hidden"], &inspected["layers"]),
        (&json["params"], &20.into(), &3.into())
    );
    assert_eq!(lab.read_json("pruned/config.json")["head_dim"], 6);
    assert_eq!(serde_json::from_str::<Value>(&lab.read("pruned/paring/plan.json")).unwrap(), json["plan"]);

    let json = lab.json("distill --student pruned --teacher model --text text.txt --context 64 --budget 2048 --batch 4 --lr 1e-3 --out student");
    fields(&json, &["steps", "loss", "tokens", "tokens_per_second", "out"]);
    assert_eq!((&json["steps"], &json["tokens"]), (&8.into(), &2048.into()));
    assert_eq!(lab.read("student/paring/metrics.jsonl").lines().count(), 8);
    assert!(!lab.path("student.unfinished").exists());

    let json = lab.json("eval --model student --text heldout.txt --context 64 --windows 4");
    fields(&json, &["nll", "perplexity", "tokens", "tasks"]);
    let (nll, perplexity) = (json["nll"].as_f64().unwrap(), json["perplexity"].as_f64().unwrap());
    assert!((nll.exp() - perplexity).abs() < 1e-9 * perplexity && json["tokens"] == 4 * 63, "{json}");

    let line = "generate --model student --prompt Hello --max-tokens 6";
    let json = lab.json(line);
    fields(&json, &["text", "tokens", "prefill_tokens_per_second", "decode_tokens_per_second"]);
    assert!(json["tokens"].as_array().unwrap().len() <= 6);
    assert_eq!(lab.json(line)["tokens"], json["tokens"]);
    // Streamed, the text is the prompt and what follows.
    assert_eq!(lab.done(line).stdout, format!("Hello{}\n", json["text"].as_str().unwrap()));
}

#[test]
fn draws_follow_the_seed() {
    let lab = Lab::new();
    let tokens = |seed: u32| {
        let line =
            format!("generate --model model --prompt Once --max-tokens 24 --temperature 1.5 --top-p 0.9 --seed {seed}");
        lab.json(&line)["tokens"].clone()
    };
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(1), tokens(2));
}

#[test]
fn a_pruned_model_holds_the_values_of_the_teacher_that_its_plan_names() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    lab.done(&format!("{PRUNE} --hidden 16 --ffn 20 --kv-groups 1 --drop-layers 1 --out pruned"));
    let plan = Plan::from_json(&lab.read("pruned/paring/plan.json")).unwrap();
    let open = |dir: &str| SafetensorsFile::open(&lab.path(&format!("{dir}/model.safetensors"))).unwrap();
    let (teacher, student) = (open("model"), open("pruned"));
    let kept: Vec<usize> = plan.layers().iter().map(|l| l.layer).collect();
    assert_eq!(kept, [0, 2, 3]);
    for (s, layer) in plan.layers().iter().enumerate() {
        let heads = |heads: &[usize]| heads.iter().flat_map(|&h| 6 * h..6 * h + 6).collect::<Vec<_>>();
        let hidden = plan.hidden().to_vec();
        for (name, rows, cols) in [
            ("self_attn.q_proj", heads(&layer.heads), hidden.clone()),
            ("self_attn.k_proj", heads(&layer.kv_groups), hidden.clone()),
            ("self_attn.o_proj", hidden.clone(), heads(&layer.heads)),
            ("mlp.gate_proj", layer.ffn.clone(), hidden.clone()),
            ("mlp.down_proj", hidden.clone(), layer.ffn.clone()),
        ] {
            let name = |l: usize| format!("model.layers.{l}.{name}.weight");
            let (from, width) =
                (teacher.read_f32(&name(layer.layer)), teacher.info(&name(layer.layer)).unwrap().shape[1]);
            let from = from.unwrap();
            let want: Vec<f32> =
                rows.iter().flat_map(|r| cols.iter().map(|c| from[r * width + c]).collect::<Vec<_>>()).collect();
            assert_eq!(student.info(&name(s)).unwrap().shape, [rows.len(), cols.len()], "{}", name(s));
            assert!(student.read_f32(&name(s)).unwrap() == want, "{}", name(s));
        }
    }
}

#[test]
fn keeping_everything_keeps_every_bit() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    lab.done(&format!("{PRUNE} --ffn 48 --out same"));
    let (teacher, same) = (files(&lab.path("model")), files(&lab.path("same")));
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(teacher[name] == same[name], "{name}");
    }
}

#[test]
fn least_squares_changes_down_proj_and_nothing_else() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    lab.done(&format!("{PRUNE} --ffn 24 --out plain"));
    let line = format!(
        "{PRUNE} --ffn 24 --compensate least-squares --sequential=false --text text.txt --context 64 --windows 16"
    );
    lab.done(&format!("{line} --threads 1 --out solved"));
    lab.done(&format!("{line} --threads 2 --out solved-2"));
    let open = |dir: &str| SafetensorsFile::open(&lab.path(&format!("{dir}/model.safetensors"))).unwrap();
    let (plain, solved) = (open("plain"), open("solved"));
    assert_eq!(plain.names(), solved.names());
    for name in plain.names() {
        let same = plain.read_f32(&name).unwrap() == solved.read_f32(&name).unwrap();
        assert_eq!(same, !name.ends_with("down_proj.weight"), "{name}");
    }
    assert!(files(&lab.path("solved"))["model.safetensors"] == files(&lab.path("solved-2"))["model.safetensors"]);
}

fn perplexity(lab: &Lab, model: &str) -> f64 {
    lab.json(&format!("eval --model {model} --text heldout.txt --context 64"))["perplexity"].as_f64().unwrap()
}

#[test]
fn every_compensation_misses_less_than_slicing() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    let text = "--text text.txt --context 64 --windows 64";
    for (cut, ways) in [
        ("--ffn 16", &["--sequential=false", "--sequential", "--ridge 0.01"][..]),
        ("--hidden 16", &["", "--basis rotated"]),
        ("--layers 2", &["--sequential=false", "--block-map"]),
        ("--kv-groups 1 --merge-kv mean", &[""]),
        ("--heads 2 --merge-heads sum", &[""]),
    ] {
        for (i, way) in ways.iter().enumerate() {
            let out = format!("{}-{i}", cut.replace([' ', '-'], ""));
            lab.done(&format!("{PRUNE} {cut} --compensate least-squares {way} {text} --out {out}"));
            let fits = lab.read_json(&format!("{out}/paring/compensation.json"));
            let sum = |of: &str| fits.as_array().unwrap().iter().map(|f| f[of].as_f64().unwrap()).sum::<f64>();
            let (sliced, fitted) = (sum("sliced_error"), sum("fitted_error"));
            assert!(fitted < 0.99 * sliced, "{cut} {way}: {fitted}, sliced {sliced}");
            assert!(perplexity(&lab, &out).is_finite());
        }
    }
}

#[test]
fn a_rotated_student_has_a_head_of_its_own() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    // Nothing is cut but the basis: the same model in other numbers, up to the bf16 of the file.
    let line = format!("{PRUNE} --basis rotated --text text.txt --context 64 --windows 16");
    lab.done(&format!("{line} --ffn 48 --out turned"));
    let (teacher, turned) = (perplexity(&lab, "model"), perplexity(&lab, "turned"));
    assert!((turned / teacher - 1.0).abs() < 0.01, "{turned} and not {teacher}");
    assert_eq!(lab.read_json("turned/config.json")["tie_word_embeddings"], false);
    for threads in [1, 2] {
        lab.done(&format!("{line} --hidden 16 --threads {threads} --out cut-{threads}"));
    }
    let json = lab.json("inspect --model cut-1");
    assert_eq!((&json["hidden"], &json["tied"]), (&16.into(), &false.into()));
    assert!(files(&lab.path("cut-1"))["model.safetensors"] == files(&lab.path("cut-2"))["model.safetensors"]);
    let provenance = lab.read_json("cut-1/paring/provenance.json");
    assert_eq!(provenance["compensation"]["basis"], "rotated");
    // Text is needed to find directions, even without least squares.
    lab.refused(&format!("{PRUNE} --basis rotated --hidden 16 --out new"), &["no text; give --text FILE"]);
}

#[test]
fn dropped_layers_are_the_ones_named() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    for (list, kept) in [("0", &[1, 2, 3][..]), ("1..=2", &[0, 3]), ("3,0..=1", &[2])] {
        let out = format!("without-{}", kept.len());
        lab.done(&format!("{PRUNE} --drop-layers {list} --out {out}"));
        let plan = Plan::from_json(&lab.read(&format!("{out}/paring/plan.json"))).unwrap();
        assert_eq!(plan.layers().iter().map(|l| l.layer).collect::<Vec<_>>(), kept);
        assert_eq!(lab.json(&format!("inspect --model {out}"))["layers"], kept.len());
    }
}

#[test]
fn a_recipe_says_what_flags_do_not() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    lab.write("recipe.toml", "model = 'model'\nimportance = 'importance'\nffn = 20\nlayers = 3\nout = 'from-recipe'\n");
    lab.done("prune --recipe recipe.toml --ffn 30");
    let json = lab.json("inspect --model from-recipe");
    assert_eq!((&json["ffn"], &json["layers"]), (&30.into(), &3.into()));
}

#[test]
fn tokens_stand_in_for_text() {
    let lab = Lab::new();
    lab.write("ids.jsonl", token_lines(&lab, 5));
    let text = lab.json("eval --model model --text text.txt --context 64 --windows 5");
    assert_eq!(lab.json("eval --model model --tokens ids.jsonl"), text);
    // Lengths may differ.
    lab.write("two.jsonl", "[1, 2, 3]\n[4, 5]\n");
    assert_eq!(lab.json("eval --model model --tokens two.jsonl")["tokens"], 3);
    assert_eq!(lab.json("importance --model model --tokens ids.jsonl --out i")["tokens"], 5 * 64);
    lab.json("distill --student model --teacher model --tokens ids.jsonl --budget 256 --batch 2 --out student");
    lab.json("compress --model model --tokens ids.jsonl --ffn 24 --budget 256 --batch 2 --out compressed");
}

#[test]
fn importance_does_not_depend_on_threads_or_names() {
    let lab = Lab::new();
    for (threads, out) in [(1, "one"), (2, "two")] {
        lab.done(&format!(
            "importance --model model --text text.txt --context 64 --windows 16 --threads {threads} --out {out}"
        ));
    }
    assert!(
        lab.path("one").is_file() && std::fs::read(lab.path("one")).unwrap() == std::fs::read(lab.path("two")).unwrap()
    );
    let file = SafetensorsFile::open(&lab.path("one")).unwrap();
    let shape = |name: &str| file.info(name).map(|i| i.shape);
    let want = [("hidden", 24), ("ffn.3", 48), ("heads.0", 4), ("kv_groups.2", 2), ("block_influence", 4)];
    for (name, n) in want {
        assert_eq!(shape(name), Some(vec![n]), "{name}");
    }
}

#[test]
fn a_distillation_does_not_depend_on_threads() {
    let run = |threads: usize| {
        let lab = Lab::new();
        let line =
            "distill --student model --teacher model --text text.txt --context 64 --budget 512 --batch 2 --out student";
        lab.done(&format!("{line} --threads {threads}"));
        lasting(&lab, "student")
    };
    check_same(&run(1), &run(2));
}
