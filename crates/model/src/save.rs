//! A model as files: `config.json` and the weights, one tensor in memory at a time.
use crate::{Arch, Error, ParamSpec, Result, params};
use paring_checkpoint::{DirWriter, ModelWriter, TensorSpec, safetensors::DEFAULT_SHARD_BYTES};
use paring_tensor::{DType, HostBuffer};
use serde_json::Value;
use std::collections::BTreeMap;

/// Writes `config.json` and the weights as bf16 into `dir`, which still has to be committed. `base_config` is what the model descends
/// from ([`Arch::to_config`]); `read` gives the values of each parameter, in the order of [`params`].
///
/// # Errors
/// [`Error::Unsupported`] for an architecture that the family's config cannot say, [`Error::NotFinite`] for a value that is not finite
/// after rounding, those of `read` and of the writer. The directory is then not to be committed.
pub fn write_model<E: From<Error>>(
    dir: &mut DirWriter,
    arch: &Arch,
    base_config: &Value,
    mut read: impl FnMut(&ParamSpec) -> std::result::Result<Vec<f32>, E>,
) -> std::result::Result<(), E> {
    let checkpoint = |e: paring_checkpoint::Error| E::from(Error::from(e));
    let config = format!("{:#}\n", arch.to_config(base_config, "bfloat16")?);
    dir.write_bytes("config.json", config.as_bytes()).map_err(checkpoint)?;
    let specs = params(arch);
    let tensors = specs.iter().map(|p| TensorSpec::new(&p.name, DType::BF16, p.shape.clone())).collect();
    let mut writer = ModelWriter::new(dir, tensors, BTreeMap::new(), DEFAULT_SHARD_BYTES).map_err(checkpoint)?;
    for spec in &specs {
        let tensor = rounded(spec, &read(spec)?)?;
        writer.tensor(&spec.name, &tensor).map_err(checkpoint)?;
    }
    writer.finish().map_err(checkpoint)
}

/// `values` as a bf16 tensor, all of them finite: the largest f32 rounds to infinity.
fn rounded(spec: &ParamSpec, values: &[f32]) -> Result<paring_tensor::Tensor> {
    let tensor = HostBuffer::tensor_from_f32(values, DType::BF16, spec.shape.as_slice());
    let tensor = tensor.map_err(paring_ops::Error::in_op("write_model"))?;
    let stored = HostBuffer::to_f32(&tensor).map_err(paring_ops::Error::in_op("write_model"))?;
    match stored.iter().position(|v| !v.is_finite()) {
        None => Ok(tensor),
        Some(index) => Err(Error::NotFinite { name: spec.name.clone(), index, value: values[index] }),
    }
}
