//! The unchanged program on CUDA: with the simulated driver in its process (`LD_PRELOAD`), whose kernels are executed instruction by
//! instruction on the CPU, and without any driver.
use crate::lab::{Lab, Running};
use serde_json::Value;
use std::process::Command;

/// `line` with the simulated driver.
fn simulated(lab: &Lab, line: &str) -> Command {
    let mut command = lab.command(line.split_whitespace());
    command.env("LD_PRELOAD", ptx_sim_driver::library_path().unwrap());
    command
}

fn json(lab: &Lab, line: &str) -> Value {
    let ran = Running::start(simulated(lab, &format!("{line} --json"))).wait();
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    assert!(!ran.stderr.contains("ptx-sim driver"), "{line}: {}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn without_a_driver_one_sentence_says_so() {
    let lab = Lab::new();
    // A machine with a driver has nothing to say here.
    let sentence = "no CUDA driver was found (libcuda.so cannot be opened); --device cpu works";
    let probe = lab.run("eval --model model --text text.txt --context 64 --windows 1 --device cuda");
    if !probe.stderr.contains("no CUDA driver") {
        println!("skipped: there is a CUDA driver here");
        return;
    }
    for device in ["cuda", "cuda:1"] {
        lab.refused(
            &format!("compress --model model --text text.txt --context 64 --ffn 24 --out new --device {device}"),
            &[&format!("--device {device}"), sentence],
        );
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_with_how_many_there_are() {
    let lab = Lab::new();
    let line = "eval --model model --text text.txt --context 64 --windows 1 --device cuda:1";
    lab.refuses(simulated(&lab, line), line, &["--device cuda:1", "there is no device 1", "1 device"]);
}

#[test]
fn generate_says_the_same_as_on_the_cpu() {
    let lab = Lab::new();
    let line = "generate --model model --prompt ab --max-tokens 8 --temperature 0 --dtype f32";
    let (cpu, cuda) = (lab.json(line), json(&lab, &format!("{line} --device cuda")));
    assert_eq!((&cpu["device"], &cuda["device"]), (&"cpu".into(), &"cuda:0".into()));
    assert_eq!(cpu["tokens"], cuda["tokens"]);
}

#[test]
fn compress_ends_where_it_ends_on_the_cpu() {
    let lab = Lab::new();
    let line = "compress --model model --text text.txt --context 32 --ffn 24 --budget 128 --batch 2 --micro-batch 1 \
                --calibration-windows 2 --eval-windows 1 --dtype f32";
    let cpu = lab.json(&format!("{line} --out cpu"));
    let cuda = json(&lab, &format!("{line} --out cuda --device cuda"));
    assert_eq!((&cpu["device"], &cuda["device"]), (&"cpu".into(), &"cuda:0".into()));
    for column in ["teacher", "pruned", "student"] {
        let of = |run: &Value| run[column]["perplexity"].as_f64().unwrap();
        let (cpu, cuda) = (of(&cpu), of(&cuda));
        assert!((cpu / cuda - 1.0).abs() < 1e-3, "{column}: {cpu} on the CPU, {cuda} on the simulated device");
    }
}
