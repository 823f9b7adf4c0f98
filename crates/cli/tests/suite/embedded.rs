//! Without any file from outside: the embedded teacher on the embedded text.
use crate::lab::{Lab, Running, files};

#[test]
fn compress_without_a_model() {
    let lab = Lab::new();
    // Nothing of the lab is there to help.
    for name in ["text.txt", "heldout.txt"] {
        std::fs::remove_file(lab.path(name)).unwrap();
    }
    std::fs::remove_dir_all(lab.path("model")).unwrap();
    let json = lab.json("compress --budget 2048 --calibration-windows 2 --eval-windows 2 --out student");
    let part = json["student"]["params_non_embedding"].as_f64().unwrap()
        / json["teacher"]["params_non_embedding"].as_f64().unwrap();
    assert!((0.45..=0.51).contains(&part), "{json}");
    assert_eq!(json["distillation"]["tokens"], 2048);
    for (name, most) in [("teacher", 60.0), ("student", 2000.0)] {
        let perplexity = json[name]["perplexity"].as_f64().unwrap();
        assert!((2.0..most).contains(&perplexity), "{name}: {json}");
    }
    assert!(json["student"]["kl"].as_f64() < json["pruned"]["kl"].as_f64(), "{json}");
    // The student speaks, and so does the teacher without a name.
    for line in ["generate --prompt The --max-tokens 4", "generate --model student --prompt The --max-tokens 4"] {
        assert!(lab.json(line)["tokens"].as_array().unwrap().len() <= 4, "{line}");
    }
    let inspected = lab.json("inspect");
    assert_eq!(inspected["params"], json["teacher"]["params"]);
    let cached = files(&lab.path("cache/paring"));
    for name in ["model.safetensors", "tokenizer.json", "calibration.txt", "distillation.txt", "heldout.txt"] {
        assert!(cached.keys().any(|n| n.ends_with(&format!("/{name}"))), "{name}: {:?}", cached.keys());
    }
    assert!(!lab.path("student.unfinished").exists());

    // What somebody damaged is unpacked again; a cache that cannot be written to is done without.
    let weights = cached.keys().find(|n| n.ends_with("model.safetensors")).unwrap();
    lab.write(&format!("cache/paring/{weights}"), "damaged");
    assert_eq!(lab.json("inspect"), inspected);
    let mut command = lab.command(["inspect", "--json"]);
    command.env("XDG_CACHE_HOME", "/dev/null");
    let ran = Running::start(command).wait();
    assert!(ran.code == 0 && ran.stdout == format!("{inspected}\n"), "{ran:?}");
}
