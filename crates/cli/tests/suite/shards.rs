//! Calibration in shards: merged, they are the bytes of one run; what does not belong together is refused.
use crate::{lab::Lab, tiny};

const RUN: &str = "importance --model model --text text.txt --context 64 --windows 8";

fn bytes(lab: &Lab, name: &str) -> Vec<u8> {
    std::fs::read(lab.path(name)).unwrap()
}

/// The safetensors header of a file.
fn header(lab: &Lab, name: &str) -> serde_json::Value {
    let bytes = bytes(lab, name);
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    serde_json::from_slice(&bytes[8..8 + length]).unwrap()
}

#[test]
fn merged_shards_are_the_bytes_of_one_run() {
    let lab = Lab::new();
    for (n, extras) in [(3, ""), (2, "--taylor --contribution --mask-documents"), (5, "--dtype bf16")] {
        let whole = format!("whole{n}");
        lab.done(&format!("{RUN} {extras} --threads 1 --out {whole}"));
        let mut files = Vec::new();
        for i in 1..=n {
            files.push(format!("{n}-{i}"));
            lab.done(&format!("{RUN} {extras} --threads {} --shard {i}/{n} --out {n}-{i}", 1 + i % 3));
        }
        files.rotate_left(1);
        let json = lab.json(&format!("importance merge {} --out merged{n}", files.join(" ")));
        assert_eq!((&json["tokens"], &json["windows"], &json["windows_missing"]), (&512.into(), &8.into(), &0.into()));
        assert!(bytes(&lab, &format!("merged{n}")) == bytes(&lab, &whole), "{n} shards, {extras}");
        lab.done(&format!("prune --model model --ffn 24 --importance merged{n} --out student{n}"));
    }
    // Shards of shards, and what they are good for meanwhile.
    lab.done(&format!("{RUN} --shard 2/6 --out 6-2"));
    lab.done(&format!("{RUN} --shard 5/6 --out 6-5"));
    let ran = lab.done("importance merge 6-5 6-2 --out both");
    assert!(ran.stderr.contains("note: 5 of 8 windows are still missing"), "{ran:?}");
    assert!(bytes(&lab, "both") == bytes(&lab, "3-2"), "2/6 and 5/6 are 2/3");
    lab.done("importance merge 3-3 both 3-1 --out three");
    assert!(bytes(&lab, "three") == bytes(&lab, "whole3"));
}

#[test]
fn block_by_block_gives_the_same_bytes() {
    let lab = Lab::new();
    for (n, extras) in
        ["", "--contribution --mask-documents --threads 2", "--dtype bf16 --shard 2/3"].iter().enumerate()
    {
        lab.done(&format!("{RUN} {extras} --out whole{n}"));
        lab.done(&format!("{RUN} {extras} --by-block --out blocks{n}"));
        assert!(bytes(&lab, &format!("blocks{n}")) == bytes(&lab, &format!("whole{n}")), "{extras}");
    }
    let memory =
        |flags: &str| lab.json(&format!("{RUN} {flags} --out new --dry-run"))["peak_memory_bytes"].as_u64().unwrap();
    assert!(memory("--by-block") < memory(""));
    for flag in ["--taylor", "--depth lm-loss"] {
        lab.refused(&format!("{RUN} --by-block {flag} --out new"), &["--by-block with", "needs the whole model"]);
    }
}

#[test]
fn a_file_says_what_it_is_of() {
    let lab = Lab::new();
    lab.done(&format!("{RUN} --taylor --shard 1/2 --out half"));
    let header = header(&lab, "half");
    let meta = &header["__metadata__"];
    assert_eq!(
        (&meta["paring.kind"], &meta["paring.version"], &meta["paring.tokens"]),
        (&"importance".into(), &"2".into(), &"256".into())
    );
    let parts: serde_json::Value = serde_json::from_str(meta["paring.data"].as_str().unwrap()).unwrap();
    assert_eq!((&parts[0]["windows"], &parts[0]["seen"]), (&8.into(), &"1/2".into()));
    let settings: serde_json::Value = serde_json::from_str(meta["paring.settings"].as_str().unwrap()).unwrap();
    assert_eq!(
        settings,
        serde_json::json!({
            "context": 64, "choice": "first", "mask_documents": false, "dtype": "f32", "contribution": false, "taylor": true,
        })
    );
    for (name, dtype) in [
        ("hidden", "F64"),
        ("ffn.0", "F64"),
        ("heads.1", "F64"),
        ("kv_groups.2", "F64"),
        ("block_influence", "F64"),
        ("block_influence.angular", "F64"),
        ("weights.down_proj.0", "F64"),
        ("raw.ffn_gate.0", "I64"),
        ("raw.taylor.hidden", "I64"),
        ("raw.counts", "I64"),
    ] {
        assert_eq!(header[name]["dtype"], dtype, "{name}");
    }
}

#[test]
fn documents_that_are_masked_change_what_is_measured() {
    let lab = Lab::new();
    lab.write("two.txt", format!("{}\x0c{}", tiny::text().chars().take(300).collect::<String>(), tiny::text()));
    let run = "importance --model model --text two.txt --context 64 --windows 4";
    let swept = ["--out plain", "--mask-documents --out masked"]
        .map(|flags| lab.json(&format!("{run} --depth lm-loss {flags}"))["depth"].clone());
    // The sweeps over layers mask them too: nobody predicts the first token of the second document.
    assert_eq!(swept.each_ref().map(|d| d["predicted_tokens"].as_u64()), [Some(4 * 63), Some(4 * 63 - 1)]);
    assert!(swept[0]["baseline"] != swept[1]["baseline"]);
    let ffn = |name: &str| {
        let (bytes, at) = (bytes(&lab, name), header(&lab, name)["ffn.1"]["data_offsets"].clone());
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let [from, to] = [0, 1].map(|i| start + at[i].as_u64().unwrap() as usize);
        bytes[from..to].to_vec()
    };
    assert!(ffn("plain") != ffn("masked"));
    lab.refused("importance merge plain masked --out new", &["different ways", "mask_documents: true"]);
    lab.write("ids.jsonl", "[1,2,3]\n[4,5,6]\n");
    lab.refused(
        "importance --model model --tokens ids.jsonl --mask-documents --out new",
        &["--mask-documents with --tokens", "does not say where documents end"],
    );
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let lab = Lab::new();
    for (name, flags) in [
        ("a", "--shard 1/3"),
        ("b", "--shard 2/3"),
        ("context", "--shard 2/3 --context 32"),
        ("taylor", "--shard 2/3 --taylor"),
        ("more", "--shard 2/3 --windows 9"),
        ("text", "--shard 2/3 --text heldout.txt"),
    ] {
        let run = RUN.replace("--text text.txt --context 64 --windows 8", "");
        let mut line = format!("{run} {flags} --out {name}");
        for (flag, value) in [("--text", "text.txt"), ("--context", "64"), ("--windows", "8")] {
            if !flags.contains(flag) {
                line += &format!(" {flag} {value}");
            }
        }
        lab.done(&line);
    }
    tiny::write(&lab.path("other"), &tiny::config(), &tiny::tokenizer(tiny::VOCAB), 8);
    lab.done(&format!("{} --shard 2/3 --out model2", RUN.replace("--model model", "--model other")));
    for (files, says) in [
        ("a a", &["hold the same windows", "window 1 is in both: parts 1/3 and 1/3"][..]),
        ("a b a", &["hold the same windows", "parts 1,2/3 and 1/3"]),
        ("a context", &["different ways", "context: 32"]),
        ("a taylor", &["different ways", "taylor: true"]),
        ("a more", &["are of 8 and of 9 windows of one text"]),
        ("a text", &["different texts", "--several-texts"]),
        ("a model2", &["different models"]),
        ("a text.txt", &["text.txt"]),
        ("a nowhere", &["nowhere: cannot be read"]),
        ("a model/model.safetensors", &["is no importance file"]),
    ] {
        lab.refused(&format!("importance merge {files} --out new"), says);
    }
    lab.done("importance merge a text --several-texts --out several");
    lab.done("importance merge text a --several-texts --out turned");
    assert!(bytes(&lab, "several") == bytes(&lab, "turned"));
    lab.refused("importance merge a b --out text.txt", &["text.txt", "exists"]);
    lab.refused("importance merge a b", &["--out FILE"]);
    lab.refused("importance merge a --out new", &["2 values required"]);
    lab.refused("importance --model model merge a b --out new", &["merge"]);
    lab.done("importance merge a b --out new");
}

#[test]
fn shards_that_are_none_are_refused() {
    let lab = Lab::new();
    for (shard, says) in [
        ("0/3", "expected I/N"),
        ("4/3", "expected I/N"),
        ("1", "expected I/N"),
        ("a/b", "expected I/N"),
        ("9/9", "--shard 9/9: there are only 8 windows"),
    ] {
        lab.refused(&format!("{RUN} --shard {shard} --out new"), &["--shard", says]);
    }
    lab.write("recipe.toml", "shard = '2/4'\ntaylor = true\n");
    lab.done(&format!("{RUN} --recipe recipe.toml --out from-recipe"));
    lab.done(&format!("{RUN} --shard 2/4 --taylor --out from-flags"));
    assert!(bytes(&lab, "from-recipe") == bytes(&lab, "from-flags"));
}

#[test]
fn importance_in_rounds() {
    let lab = Lab::new();
    lab.done(&format!("{RUN} --out importance"));
    let prune = "prune --model model --importance importance --text text.txt --context 64 --windows 4 --hidden 16 --ffn 24 --layers 3";
    let once = lab.json(&format!("{prune} --out once"));
    let one = lab.json(&format!("{prune} --rounds 1 --out one"));
    assert_eq!(once["plan"], one["plan"]);
    let three = lab.json(&format!("{prune} --rounds 3 --out three"));
    assert_eq!(three["params"], once["params"], "rounds end at the same sizes");
    assert!(three["plan"] != once["plan"], "and measure on the way: {}", three["plan"]);
    lab.done(&format!("{prune} --rounds 3 --threads 1 --out again"));
    assert!(bytes(&lab, "three/model.safetensors") == bytes(&lab, "again/model.safetensors"));
    lab.refused(&format!("{prune} --rounds 0 --out new"), &["--rounds 0: expected at least 1"]);
    let drop = prune.replace("--layers 3", "--drop-layers 1");
    lab.refused(&format!("{drop} --rounds 2 --out new"), &["--rounds 2 with --drop-layers"]);
    lab.refused(
        "prune --model model --importance importance --ffn 24 --rounds 2 --out new",
        &["no text; give --text FILE... or --tokens FILE"],
    );
}

#[test]
fn prune_ranks_by_the_definition_asked_for() {
    let lab = Lab::new();
    lab.done(&format!("{RUN} --out plain"));
    lab.done(&format!("{RUN} --taylor --contribution --out full"));
    let plan = |flags: &str| {
        let out = flags.replace([' ', ':'], "");
        lab.json(&format!("prune --model model --importance full --hidden 16 --ffn 16 {flags} --out o{out}"))["plan"]
            .clone()
    };
    let default = plan("");
    assert_eq!(
        plan("--aggregate mean:l2 --ffn-by modelopt --heads-by modelopt --hidden-by modelopt --influence cosine"),
        default
    );
    for flags in ["--ffn-by paper", "--ffn-by taylor", "--hidden-by taylor", "--aggregate var:var"] {
        assert_ne!(plan(flags), default, "{flags}");
    }
    for (flags, says) in [
        ("--ffn-by taylor", "paring importance --taylor"),
        ("--heads-by contribution", "paring importance --contribution"),
        ("--aggregate mean", "expected SEQ:BATCH"),
        ("--aggregate l3:l2", "expected SEQ:BATCH"),
    ] {
        lab.refused(&format!("prune --model model --importance plain --ffn 16 {flags} --out new"), &[says]);
    }
}
