//! Logits of one window as a file, for comparison with other programs: `fixtures/transformers_check.py` uses it.
//!
//! usage: `logits MODEL IDS OUT.safetensors` with IDS like `1,5,7`; writes `logits` `[T, V]`, f32
use paring_checkpoint::{SafetensorsWriter, TensorSpec, atomic};
use paring_cpu::Cpu;
use paring_exec::Ctx;
use paring_model::{Batch, Model, open};
use paring_tensor::DType;
use std::{collections::BTreeMap, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, ids, out] = args.as_slice() else { return Err("usage: logits MODEL IDS OUT.safetensors".into()) };
    let ids: Vec<u32> = ids.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let cpu = Cpu::new(None)?;
    let opened = open(Path::new(model))?;
    let model = Model::load(&opened.arch, opened.source(), &cpu, DType::F32)?;
    let x = model.hidden(&mut Ctx::infer(&cpu), &Batch::pack([ids.as_slice()]), None)?;
    let logits = model.logits(&cpu, &x.tensor)?;
    let path = Path::new(out);
    let specs = [TensorSpec::new("logits", DType::F32, [ids.len(), opened.arch.vocab])];
    atomic::write_file(path, |file| {
        let mut writer = SafetensorsWriter::new(file, path, &specs, &BTreeMap::new()).map_err(std::io::Error::other)?;
        writer.tensor("logits", &logits).map_err(std::io::Error::other)?;
        writer.finish().map(drop).map_err(std::io::Error::other)
    })?;
    Ok(())
}
